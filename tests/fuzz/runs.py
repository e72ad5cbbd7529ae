"""Targets among what runs leave: weights, and digests of checkpoints."""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

import models
from models import TransformerConfig
from tests.fuzz.target import Target
from train.config.plain import to_dict
from train.config.run import RunConfig
from train.host.digests import SUMS, DamageError, check_seal, seal
from train.run.weights import FILE, About, load_weights, save_weights

RUN = RunConfig(
    model=TransformerConfig(vocab_size=256, context=128, layers=1, d_model=8, heads=1, d_ff=16)
)
SMALL = TransformerConfig(vocab_size=2, context=2, layers=1, d_model=2, heads=1, d_ff=2)


def _read_seal(path: Path) -> None:
    try:
        check_seal(path.parent)
    except DamageError as error:
        raise ValueError(f"{path.parent}: {error}") from error


def _put_sealed(folder: Path) -> None:
    (folder / "params").mkdir()
    (folder / "params" / "0").write_bytes(b"\0")
    (folder / "meta").write_bytes(b"{}")


def _seal_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as name:
        _put_sealed(Path(name))
        seal(Path(name))
        return [(Path(name) / SUMS).read_bytes()]


def _read_weights(path: Path) -> None:
    """The file is the header of one of weights."""
    header = path.read_bytes()
    weights = path.with_name(FILE)
    weights.write_bytes(len(header).to_bytes(8, "little") + header + _weights()[1])
    load_weights(weights, to_dict(SMALL), _target())


def _read_about(path: Path) -> None:
    """The file is what a header says of the weights; its checksum is made to fit."""
    content = path.read_bytes().decode(errors="replace")
    header = json.loads(_weights()[0])
    signed = {"about": content, "sha256": hashlib.sha256(content.encode()).hexdigest()}
    header["__metadata__"] = dict.fromkeys(header["__metadata__"], json.dumps(signed))
    path.write_text(json.dumps(header), encoding="utf-8")
    _read_weights(path)


def _about_seeds() -> list[bytes]:
    (metadata,) = json.loads(_weights()[0])["__metadata__"].values()
    return [json.loads(metadata)["about"].encode()]


@functools.cache
def _weights() -> tuple[bytes, bytes]:
    """The header of a file of weights, and the tensors."""
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), _shapes())
    about = About(config_hash="0" * 12, step=3, model=to_dict(SMALL))
    with tempfile.TemporaryDirectory() as name:
        content = save_weights(Path(name), params, about).read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    return content[8:end], content[end:]


@functools.cache
def _target() -> Any:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: leaf.update(sharding=one), _shapes())


def _shapes() -> Any:
    return jax.eval_shape(lambda: models.init(SMALL, jax.random.key(0)))


TARGETS_OF_RUNS = {
    "seal": Target(SUMS, _read_seal, _seal_seeds, _put_sealed),
    "weights": Target("header.json", _read_weights, lambda: [_weights()[0]]),
    "about": Target("about.json", _read_about, _about_seeds),
}
