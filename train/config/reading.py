"""A run's configuration out of JSON again, as `train.config.run.to_dict` gave it."""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

from models import TransformerConfig
from train.config.run import MeshConfig, RunConfig, ScheduleConfig
from train.data import DataConfig
from train.host.typed_json import from_json
from train.optimizers.settings import OptimizerConfig

_OPTIMIZERS = [typing.get_args(choice)[0] for choice in typing.get_args(OptimizerConfig)]
_KINDS: dict[str, type] = {
    kind.__name__: kind
    for kind in (RunConfig, ScheduleConfig, MeshConfig, DataConfig, TransformerConfig, *_OPTIMIZERS)
}
"""All that a configuration is made of: JSON names one of these and nothing else."""


def run_config(fields: Any) -> RunConfig:
    """The configuration that a JSON object describes.

    Raises:
      ValueError: If it describes none, or one that its own checks refuse.

    Example:
      >>> from train.config.run import to_dict
      >>> from train.config.named import nano
      >>> run_config(to_dict(nano())) == nano()
      True
    """
    try:
        made = _made(from_json(fields, Any, "it"))
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(f"not a run's configuration ({error!r:.200})") from error
    if not isinstance(made, RunConfig):
        raise ValueError(f"not a run's configuration ({made!r:.80})")
    return made


def read_run_config(path: Path) -> RunConfig:
    """The configuration in a run's folder.

    Raises:
      ValueError: If the file is missing or damaged; the message names it.
    """
    try:
        return run_config(json.loads(path.read_bytes()))
    except FileNotFoundError:
        raise ValueError(f"{path.parent} holds no run: it has no {path.name}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error


def _made(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_made, value))
    if isinstance(value, dict):
        settings = {name: _made(setting) for name, setting in value.items() if name != "kind"}
        return _KINDS[value["kind"]](**settings)
    return value
