"""Configurations as plain JSON values: written, hashed, compared and read again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from train.config.run import MeshConfig, RunConfig
from train.host.typed_json import from_json, within


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON values; each optimizer carries its kind."""
    if dataclasses.is_dataclass(config):
        fields = {f.name: to_dict(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"kind": type(config).__name__, **fields}
    if isinstance(config, tuple | list):
        return [to_dict(item) for item in config]  # type: ignore[return-value]
    return config


def config_hash(config: Any) -> str:
    """Twelve hexadecimal digits that name what is computed, on whatever mesh."""
    text = json.dumps(on_any_mesh(to_dict(config)), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def on_any_mesh(plain: Any) -> Any:
    """A result of `to_dict` with the default mesh: a run may go on with other devices.

    Example:
      >>> on_any_mesh({"steps": 10, "mesh": to_dict(MeshConfig(fsdp=8))})["mesh"]["fsdp"]
      1
    """
    if isinstance(plain, list):  # the members of a population
        return [on_any_mesh(item) for item in plain]
    return plain | {"mesh": to_dict(MeshConfig())} if "mesh" in plain else plain


def first_difference(ours: Any, theirs: Any, path: str = "") -> str | None:
    """The first setting in which two `to_dict` results differ, as a readable phrase.

    Example:
      >>> first_difference({"steps": 10}, {"steps": 20})
      'steps: 10 here, 20 there'
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            difference = first_difference(ours.get(key), theirs.get(key), within(path, key))
            if difference:
                return difference
        return None
    return None if ours == theirs else f"{path}: {ours!r:.80} here, {theirs!r:.80} there"


def run_config(fields: Any) -> RunConfig:
    """The configuration that a JSON object describes.

    Raises:
      ValueError: If it describes none, or one that its own checks refuse.

    Example:
      >>> from train.config.named import nano
      >>> run_config(to_dict(nano())) == nano()
      True
    """
    return from_json(fields, RunConfig, "the configuration", exact=True)


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
