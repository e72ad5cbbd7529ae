"""The device mesh, and where each array of a run lives on it.

*axis* is a mesh axis (`data`, `fsdp`, `tensor`), *dim* a dimension of a tensor. Models name the
dims of their parameters (`embed`, `mlp`, ...); `RULES` says which axis shards which dim. Optimizer
state of a parameter's shape is sharded as that parameter, everything else is replicated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from train.config import Experiment, MeshConfig

AXES = ("data", "fsdp", "tensor")

RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "kv_heads": "tensor",
    "mlp": "tensor",
    "head_dim": None,
    "layers": None,
}


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """Lays the devices out on the axes `data`, `fsdp` and `tensor`.

    Args:
      config: Devices along each axis; `data=None` takes what the others leave.
      devices: The devices to use; all of them by default.

    Raises:
      ValueError: If the axes' product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    fixed = config.fsdp * config.tensor
    data = config.data if config.data is not None else max(len(devices) // max(fixed, 1), 1)
    shape = (data, config.fsdp, config.tensor)
    if min(shape) < 1 or data * fixed != len(devices):
        raise ValueError(
            f"mesh data={data} x fsdp={config.fsdp} x tensor={config.tensor} needs "
            f"{data * fixed} devices and {len(devices)} are in use: choose sizes whose product "
            f"is {len(devices)}."
        )
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh, batch_size: int) -> NamedSharding:
    """Rows of a batch over `data` and `fsdp`.

    Raises:
      ValueError: If the rows cannot be shared out evenly.
    """
    shards = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size % shards:
        raise ValueError(
            f"batch_size={batch_size} does not divide over data x fsdp = {shards} devices: "
            f"take a multiple of {shards}."
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def process_share(mesh: Mesh, batch_size: int) -> dict[str, int]:
    """Which rows of a batch this process reads, in the words of the data's readers.

    Processes that share a row (through the `tensor` axis) all read it.

    Returns:
      `process_count`, in how many equal shares the rows are dealt out, and `process_index`, which
      of them lies on this process's devices.

    Raises:
      ValueError: If the rows of this process's devices are not one such share.
    """
    parts = batch_sharding(mesh, batch_size).addressable_devices_indices_map((batch_size,))
    spans = {part[0].indices(batch_size)[:2] for part in parts.values() if part is not None}
    first, last = min(spans)[0], max(spans)[1]
    rows = last - first
    if sum(stop - start for start, stop in spans) != rows or first % rows or batch_size % rows:
        raise ValueError(
            f"the devices of process {jax.process_index()} hold rows {sorted(spans)} of a batch of "
            f"{batch_size}, not one equal share: choose mesh sizes that divide or are a multiple "
            f"of the {jax.local_device_count()} devices of a process."
        )
    return {"process_index": first // rows, "process_count": batch_size // rows}


@contextmanager
def tracing_on(mesh: Mesh) -> Iterator[None]:
    """What is traced inside may shard activations by `RULES`, as `models.sharding` asks to."""
    with jax.set_mesh(mesh), nnx.logical_axis_rules(tuple(RULES.items())):
        yield


def check_mesh(config: Experiment) -> None:
    """Refuses a mesh that does not fit the devices or the batch, before any data is read.

    Raises:
      ValueError: As `make_mesh` and `batch_sharding`.
    """
    batch_sharding(make_mesh(config.mesh), config.batch_size)


def parameter_shardings(mesh: Mesh, logical_axes: Any, shapes: Any) -> Any:
    """A NamedSharding for each parameter.

    Args:
      mesh: The mesh of `make_mesh`.
      logical_axes: For each parameter a tuple with one dim name (or None) a dimension.
      shapes: Arrays or ShapeDtypeStructs of the same structure.

    Raises:
      ValueError: If a sharded dim is not a multiple of its axis's size.
    """

    def one(path: Any, shape: Any, names: tuple[str | None, ...]) -> NamedSharding:
        axes = tuple(RULES[name] if name else None for name in names)
        for dim, name, axis in zip(shape.shape, names, axes, strict=True):
            if isinstance(axis, str) and dim % mesh.shape[axis]:
                raise ValueError(
                    f"mesh axis {axis}={mesh.shape[axis]} does not divide {name}={dim} of "
                    f"{jax.tree_util.keystr(path, simple=True, separator='/')}: "
                    f"choose a {axis} size that divides {dim}."
                )
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree_util.tree_map_with_path(one, shapes, logical_axes)


def state_shardings(
    transformation: optax.GradientTransformation, parameters: Any, shardings: Any
) -> Any:
    """Shardings of an optimizer's state: its parameter's where the shape agrees, else replicated.

    Args:
      transformation: The optimizer.
      parameters: ShapeDtypeStructs of the parameters.
      shardings: Their NamedShardings.
    """
    mesh = jax.tree.leaves(shardings)[0].mesh

    def like_parameter(leaf: Any, parameter: Any, sharding: NamedSharding) -> Any:
        if isinstance(leaf, optax.MaskedNode):
            return leaf
        return sharding if leaf.shape == parameter.shape else replicated(mesh)

    return optax.tree.map_params(
        transformation,
        like_parameter,
        jax.eval_shape(transformation.init, parameters),
        parameters,
        shardings,
        transform_non_params=lambda _: replicated(mesh),
        is_leaf=lambda leaf: isinstance(leaf, optax.MaskedNode),
    )
