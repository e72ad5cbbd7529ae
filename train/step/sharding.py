"""The device mesh, and where each array of a run lives on it.

*axis* is a mesh axis (`data`, `fsdp`, `tensor`), *dim* a dimension of a tensor. Models name the
dims of their parameters (`embed`, `mlp`, ...); `RULES` says which axis shards which dim. Optimizer
state of a parameter's shape is sharded as that parameter, everything else is replicated.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import optax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from train.config.run import Experiment, MeshConfig

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
            f"{data * fixed} devices and {len(devices)} are in use: a mesh that fits is "
            f"{_fitting_mesh(config, len(devices))}."
        )
    return jax.make_mesh(shape, AXES, axis_types=axis_types(config), devices=devices)


def mesh_shape(config: MeshConfig) -> tuple[int, int, int]:
    """Devices along the axes; `data` counts as 1 where it is None."""
    return (config.data or 1, config.fsdp, config.tensor)


def abstract_mesh(config: MeshConfig) -> Any:
    """A mesh of that shape, of devices that need not be there."""
    return AbstractMesh(mesh_shape(config), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _fitting_mesh(config: MeshConfig, devices: int) -> str:
    """The mesh nearest to the one asked for that these devices can make, as flags."""
    tensor = max(divisors(devices, most=max(config.tensor, 1)))
    fsdp = max(divisors(devices // tensor, most=max(config.fsdp, 1)))
    sizes = {"data": devices // (tensor * fsdp), "fsdp": fsdp, "tensor": tensor}
    changed = {n: size for n, size in sizes.items() if getattr(config, n) not in (None, size)}
    return " ".join(f"--mesh.{axis} {size}" for axis, size in changed.items())


def divisors(number: int, *, most: int) -> list[int]:
    """What divides a number, from 1 up to `most`.

    Example:
      >>> divisors(12, most=8)
      [1, 2, 3, 4, 6]
    """
    return [size for size in range(1, most + 1) if number % size == 0]


def axis_types(config: MeshConfig) -> tuple[AxisType, ...]:
    """JAX's word for `config.axes`, for every axis of the mesh."""
    kind = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}[config.axes]
    return (kind,) * len(AXES)


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
            f"batch_size={batch_size} does not divide over data x fsdp = {shards} devices: take a "
            f"multiple of {shards} rows, or data x fsdp among {_listed(batch_size, mesh)}; "
            "--mesh.tensor takes the other devices."
        )
    return NamedSharding(mesh, PartitionSpec(RULES["batch"]))


def process_share(
    mesh: Mesh, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> dict[str, int]:
    """Which rows of a batch a process reads, in the words of the data's readers.

    Processes that share a row (through the `tensor` axis) all read it.

    Args:
      mesh: All devices of the run.
      batch_size: Rows of the global batch.
      devices: Those of the process; by default of this one.

    Returns:
      `process_count`, in how many equal shares the rows are dealt out, and `process_index`, which
      of them lies on the process's devices.

    Raises:
      ValueError: If the rows of the process's devices are not one such share.
    """
    devices = mesh.local_devices if devices is None else devices
    parts = batch_sharding(mesh, batch_size).devices_indices_map((batch_size,))
    spans = {parts[device][0].indices(batch_size)[:2] for device in devices}
    first, last = min(spans)[0], max(spans)[1]
    rows = last - first
    if sum(stop - start for start, stop in spans) != rows or first % rows or batch_size % rows:
        raise ValueError(
            f"the {len(devices)} devices of process {devices[0].process_index} hold rows "
            f"{sorted(spans)} of a batch of {batch_size}, not one equal share: choose mesh sizes "
            f"that divide {len(devices)} or are a multiple of it."
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
      logical_axes: For each parameter a tuple with one dim name (or None) a dimension; None
        replicates them all.
      shapes: Arrays or ShapeDtypeStructs of the same structure.

    Raises:
      ValueError: If a sharded dim is not a multiple of its axis's size.
    """
    if logical_axes is None:
        return jax.tree.map(lambda _: replicated(mesh), shapes)
    axes = jax.tree.map(
        lambda shape, names: tuple(RULES[name] if name else None for name in names),
        shapes,
        logical_axes,
    )
    _check_dims(mesh, logical_axes, axes, shapes)
    return jax.tree.map(lambda shape, axes: NamedSharding(mesh, PartitionSpec(*axes)), shapes, axes)


def _check_dims(mesh: Mesh, logical_axes: Any, axes: Any, shapes: Any) -> None:
    """Refuses a dim that its axis does not divide, with the sizes that divide all of the axis's."""
    sharded: dict[str, list[tuple[str, int]]] = {}

    def note(path: Any, shape: Any, names: tuple[str | None, ...], axes: tuple[Any, ...]) -> None:
        leaf = jax.tree_util.keystr(path, simple=True, separator="/")
        for dim, name, axis in zip(shape.shape, names, axes, strict=True):
            if axis is not None:
                sharded.setdefault(axis, []).append((f"{name}={dim} of {leaf}", dim))

    jax.tree_util.tree_map_with_path(note, shapes, logical_axes, axes)
    for axis, dims in sharded.items():
        common = math.gcd(*(dim for _, dim in dims))
        for name, dim in dims:
            if dim % mesh.shape[axis]:
                raise ValueError(
                    f"mesh axis {axis}={mesh.shape[axis]} does not divide {name}: choose "
                    f"--mesh.{axis} among {_listed(common, mesh)}."
                )


def _listed(number: int, mesh: Mesh) -> str:
    return ", ".join(map(str, divisors(number, most=mesh.size)))


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
