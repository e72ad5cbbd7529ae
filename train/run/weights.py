"""Parameters as a safetensors file with checksums, which other libraries read and which is no code.

    model.safetensors    the tensors, and an `About` of them in the header
    model.json           that `About` for people, with the SHA-256 of the whole file

Names are paths of the parameter tree with dots, such as `layers.mlp.up.kernel`: the layers are
stacked along the first dimension, as the model has them. For libraries that know no stacks each
layer can be a tensor of its own, `layers.0.mlp.up.kernel`. Both are read.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy

from train.host.disk import disk_explained
from train.host.files import replacing, write_whole
from train.host.typed_json import from_json, to_json
from train.run.checkpoint_checks import leaves_by_path

SCHEMA = 1
FILE = "model.safetensors"
_KEY = "optax_strat"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""What safetensors calls them."""
_SAME_FUNCTION = ("rope_theta", "norm_eps")
"""Settings that change what a model computes, and that no shape tells of."""


class WeightsError(ValueError):
    """A file of weights that is damaged or does not fit; the message names the file."""


@dataclass(frozen=True, kw_only=True)
class About:
    """Where weights come from, and what must be true of their bytes."""

    config_hash: str
    """Names the configuration of the run that they were trained by."""
    step: int
    model: dict[str, Any]
    """The model's configuration, as `train.config.plain.to_dict` gives it."""
    sha256: dict[str, str] = field(default_factory=dict)
    """Of every tensor's bytes, by its name in the file."""
    schema: int = SCHEMA


def save_weights(folder: Path, params: Any, about: About, *, stacked: bool = True) -> Path:
    """Writes both files; a crash leaves each whole, and no description of other tensors.

    Args:
      folder: Made if missing.
      params: A model's parameters, on the host.
      about: What is known of them; the hashes are filled in.
      stacked: Whether the layers stay stacked, or get a tensor each.

    Returns:
      The path of the tensors.

    Raises:
      DiskError: If there is no room.
    """
    tensors = {name: np.ascontiguousarray(leaf) for name, leaf in _named(params).items()}
    if not stacked:
        tensors = dict(_by_layer(tensors))
    hashes = {name: _sha256(tensor) for name, tensor in sorted(tensors.items())}
    about = dataclasses.replace(about, sha256=hashes)
    path = folder / FILE
    with disk_explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)
        described = to_json(about) | {"file_sha256": _write(path, tensors, about)}
        write_whole(path.with_suffix(".json"), json.dumps(described, indent=2).encode() + b"\n")
    return path


def load_weights(path: Path, model: Mapping[str, Any], target: Any) -> Any:
    """A file's parameters, every byte of which has been checked.

    Args:
      path: As `save_weights` wrote it.
      model: The configuration of its model, as `to_dict` gives it.
      target: Shapes, dtypes and shardings of its parameters.

    Raises:
      WeightsError: If the file is damaged or has no checksums, is of a model that computes another
        function, or a tensor is missing, unknown, of another shape or dtype, or not finite.
    """
    wanted = _named(target)
    with _opened(path) as file:
        about = _about(path, file)
        for name in _SAME_FUNCTION:
            ours, theirs = model.get(name), about.model.get(name)
            if ours != theirs:
                shown = f"{theirs!r:.80}"
                raise WeightsError(
                    f"{path} was trained with {name}={shown}, and this model has {ours}: set "
                    f"--model.{name.replace('_', '-')} {shown}."
                )
        names = set(file.keys())
        parts = {name: _parts(name, leaf.shape, names) for name, leaf in wanted.items()}
        _check_names(path, names, {part for some in parts.values() for part in some})

        def read(name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
            whole = parts[name] == [name]
            shape = leaf.shape if whole else leaf.shape[1:]
            layers = [_tensor(path, file, part, shape, leaf.dtype, about) for part in parts[name]]
            value = layers[0] if whole else np.stack(layers)
            return jax.make_array_from_callback(leaf.shape, leaf.sharding, value.__getitem__)

        leaves = [read(name, leaf) for name, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(target), leaves)


def read_about(path: Path) -> About:
    """What a file says of its tensors.

    Raises:
      WeightsError: If its header is damaged or has no checksums.
    """
    with _opened(path) as file:
        return _about(path, file)


def _named(tree: Any) -> dict[str, Any]:
    return leaves_by_path(tree, ".")


def _by_layer(tensors: dict[str, np.ndarray]) -> Iterator[tuple[str, np.ndarray]]:
    for name, tensor in tensors.items():
        layers = _layer_names(name, tensor.shape)
        yield from zip(layers, tensor, strict=True) if layers else [(name, tensor)]


def _layer_names(name: str, shape: tuple[int, ...]) -> list[str]:
    """What a stacked tensor's layers are called; none for what is not stacked."""
    container, _, rest = name.partition(".")
    return [f"{container}.{i}.{rest}" for i in range(shape[0])] if container == "layers" else []


def _parts(name: str, shape: tuple[int, ...], names: set[str]) -> list[str]:
    """The tensors of a file that make up a parameter."""
    return [name] if name in names else _layer_names(name, shape) or [name]


def _check_names(path: Path, stored: set[str], wanted: set[str]) -> None:
    for name in sorted(stored ^ wanted):
        what = f"no {name}" if name in wanted else f"more than this model has: {name!r:.80}"
        raise WeightsError(
            f"{path} holds {what}; choose the configuration of the model that it was made from."
        )


def _tensor(
    path: Path, file: Any, name: str, shape: tuple[int, ...], dtype: Any, about: About
) -> np.ndarray:
    stored = file.get_slice(name)
    for quality, theirs, ours in (
        ("shape", tuple(stored.get_shape()), shape),
        ("dtype", stored.get_dtype(), _DTYPES[dtype.name]),
    ):
        if theirs != ours:
            raise WeightsError(
                f"{path}: {name} has {quality} {theirs}, and this model needs {ours}."
            )
    tensor = file.get_tensor(name)
    if _sha256(tensor) != about.sha256.get(name):
        raise WeightsError(f"{path}: {name} is not what was written; copy or export it again.")
    if not np.isfinite(tensor).all():
        raise WeightsError(f"{path}: {name} has numbers that are not finite; take an earlier step.")
    return tensor


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        file = safetensors.safe_open(path, framework="numpy")
    except (OSError, safetensors.SafetensorError) as error:
        reason = f"{str(error)!r:.200}"  # The library's words may quote the file's.
        raise WeightsError(f"{path} cannot be read as safetensors ({reason}).") from error
    with file:
        yield file


def _about(path: Path, file: Any) -> About:
    try:
        header = json.loads((file.metadata() or {})[_KEY])
        if hashlib.sha256(header["about"].encode()).hexdigest() != header["sha256"]:
            raise ValueError("it is not what was written")
        about = from_json(json.loads(header["about"]), About, "it")
    except KeyError:
        raise WeightsError(
            f"{path} holds no checksums of its tensors: write it with `save_weights`."
        ) from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} has a damaged header ({error}); copy it again.") from error
    if about.schema != SCHEMA:
        raise WeightsError(f"{path} is of schema {about.schema}, and this version reads {SCHEMA}.")
    return about


def _write(path: Path, tensors: dict[str, np.ndarray], about: About) -> str:
    """Writes the tensors and returns the hash of the file."""
    text = json.dumps(to_json(about), sort_keys=True)
    # One entry, since the library writes several in any order: equal weights are equal files.
    header = {"about": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    with replacing(path) as new:
        safetensors.numpy.save_file(tensors, new, {_KEY: json.dumps(header)})
        with new.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(tensor: np.ndarray) -> str:
    return hashlib.sha256(tensor.reshape(-1).view(np.uint8).data).hexdigest()
