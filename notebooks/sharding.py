# %% [markdown]
# # Sharding
#
# You will see, on eight virtual devices of a CPU, which device holds which part of the parameters
# and of the optimizer's state under four meshes, how many bytes that is, and what the devices
# tell each other in a training step. Nothing is trained: programs are compiled and read.

# %%
import dataclasses
import math
import re

import jax
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)

from train.config.named import nano
from train.config.run import MeshConfig
from train.experiments.costs.hlo import collective_bytes
from train.optimizers import Aardvark, AdamW, StratOpt
from train.step.optimizer import build_optimizer
from train.step.program import compile_ahead
from train.step.sharding import RULES, make_mesh
from train.step.state import abstract_state
from train.tasks import task_of

# %% [markdown]
# ## Rules
#
# The model names the dimensions of its parameters, and `RULES` says which axis of the mesh splits
# which name. A leaf of the optimizer's state that has its parameter's shape is split like it;
# everything else, such as StratOpt's vectors with one number a layer, is whole on every device.

# %%
for name, axis in RULES.items():
    print(f"{name:10} {axis}")

# %% [markdown]
# ## Who holds what
#
# A mesh of 2 × 2 × 2: each parameter in two replicas (`data`), its width split in two (`fsdp`),
# its heads, columns or vocabulary split in two (`tensor`). The state is described without being
# made.

# %%
MESHES = {
    "data 8": MeshConfig(data=8),
    "fsdp 8": MeshConfig(data=1, fsdp=8),
    "data 2, fsdp 4": MeshConfig(data=2, fsdp=4),
    "data 2, fsdp 2, tensor 2": MeshConfig(data=2, fsdp=2, tensor=2),
}
config = nano()


def placed(optimizer, mesh):
    """Shapes, dtypes and shardings of parameters and state, by path."""
    transformation = build_optimizer(optimizer, config.schedule, config.steps).transformation
    state = abstract_state(task_of(config), transformation, make_mesh(mesh))
    leaves = jax.tree.leaves_with_path((state.params, state.opt_state))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


leaves = placed(StratOpt(), MESHES["data 2, fsdp 2, tensor 2"])
for path, leaf in leaves.items():
    if "/nu/" not in path and "/mu/" not in path:
        part = leaf.sharding.shard_shape(leaf.shape)
        print(f"{path:33} {leaf.shape!s:14} a device {part!s:14} {leaf.sharding.spec}")
for path, leaf in leaves.items():
    if "/nu/" in path or "/mu/" in path:
        _, like = re.split("/mu/|/nu/", path)
        assert leaf.sharding == leaves[f"0/{like}"].sharding

# %% [markdown]
# `0/` are the parameters, `1/` is the state; its moments, which are not printed, lie as the
# parameters do.
#
# ## As pictures
#
# Each square is a leaf, cut as the mesh cuts it, and the numbers are the devices that hold the
# piece. Of more than two dimensions those are drawn that are cut, and then the largest.

# %%
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A7A7A", "#B8860B")
MIDDLE = {"ha": "center", "va": "center", "color": "#333333"}


def draw(axes, leaf):
    """The pieces of a leaf and the devices that hold each."""
    cut = np.not_equal(leaf.sharding.shard_shape(leaf.shape), leaf.shape)
    down, across = sorted(sorted(range(leaf.ndim), key=lambda d: (cut[d], leaf.shape[d]))[-2:])
    pieces = {}
    for device, index in leaf.sharding.devices_indices_map(leaf.shape).items():
        box = [
            np.divide(index[d].indices(leaf.shape[d])[:2], leaf.shape[d]) for d in (down, across)
        ]
        pieces.setdefault(tuple(np.ravel(box).tolist()), []).append(device.id)
    for (top, bottom, left, right), devices in pieces.items():
        size = (right - left, bottom - top)
        color = COLORS[devices[0]] if len(pieces) > 1 else "#7A7A7A"
        axes.add_patch(plt.Rectangle((left, top), *size, fc=color, alpha=0.4, ec="white"))
        text = "all" if len(devices) == 8 else " ".join(map(str, devices))
        is_narrow = size[0] < 0.2 and len(devices) > 1
        place = (left + size[0] / 2, top + size[1] / 2)
        axes.text(*place, text, fontsize=7, rotation=90 * is_narrow, **MIDDLE)
    axes.set(xlim=(0, 1), ylim=(1, 0), xticks=[], yticks=[])
    axes.set_facecolor("white")
    axes.grid(visible=False)


SHOWN = {
    "embedding": "mu/embed/embedding",
    "query": "mu/layers/attention/query/kernel",
    "MLP up": "mu/layers/mlp/up/kernel",
    "MLP down": "mu/layers/mlp/down/kernel",
    "norm scale": "mu/layers/mlp_norm/scale",
}
figure, grid = plt.subplots(len(MESHES), len(SHOWN), figsize=(7.2, 6.2))
for row, (name, mesh) in zip(grid, MESHES.items(), strict=True):
    leaves = placed(StratOpt(), mesh)
    for axes, (title, ending) in zip(row, SHOWN.items(), strict=True):
        leaf = next(leaf for path, leaf in leaves.items() if path.endswith(ending))
        draw(axes, leaf)
        axes.set_title(f"{title} {'×'.join(map(str, leaf.shape))}", fontsize=7)
    row[0].set_ylabel(name.replace(", ", "\n"))
title = "First moments of StratOpt: which devices hold which piece"
figure.suptitle(title, x=0, ha="left", fontsize=10, fontweight="bold")
plt.show()

# %% [markdown]
# With `data` alone everything is everywhere. With `fsdp` each device has an eighth of each matrix
# and, to use it, must ask the others for the rest. `tensor` splits the other dimension: up by
# columns, down by rows, so that what lies between them needs no exchange.
#
# ## Bytes


# %%
def kilobytes(leaves, kind):
    """What a device holds of all leaves whose paths are of a kind."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize / 1e3
        for path, leaf in leaves.items()
        if re.match(kind, path)
    )


figure, axes = plt.subplots(figsize=(7.2, 2.0))
left = np.zeros(len(MESHES))
for title, kind in {
    "parameters": "0/",
    "first moments": ".*/mu/",
    "second moments": ".*/nu/",
}.items():
    widths = [kilobytes(placed(StratOpt(), mesh), kind) for mesh in MESHES.values()]
    axes.barh(list(MESHES), widths, left=left, label=title)
    left += widths
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.set(title="Parameters and state on each device", xlabel="kB (1000 bytes)")
figure.legend(loc="outside right center")
plt.show()

# %% [markdown]
# What StratOpt adds to Adam's two moments is four numbers for each of 21 layers, too little to be
# drawn. On the last two meshes all is held twice, once for each replica.
#
# ## What moves
#
# The compiled step says what the devices exchange: *all-reduce* sums over devices, *all-gather*
# collects the pieces of a matrix, *reduce-scatter* sums and leaves each device its piece.


# %%
def exchanged(optimizer, mesh):
    """Bytes of each kind of collective in one training step."""
    run = dataclasses.replace(config, optimizer=optimizer, mesh=mesh, context=64)
    return collective_bytes(compile_ahead(run, task_of(run), make_mesh(mesh)).as_text())


KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
moved = {name: exchanged(StratOpt(), mesh) for name, mesh in MESHES.items()}

figure, axes = plt.subplots(figsize=(7.2, 2.2))
left = np.zeros(len(MESHES))
for kind in KINDS:
    widths = np.array([found.get(kind, 0) / 1e3 for found in moved.values()])
    if widths.any():
        axes.barh(list(MESHES), widths, left=left, label=kind)
    left += widths
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.set(title="What the devices tell each other in a step", xlabel="kB (1000 bytes)")
figure.legend(loc="outside right center")
plt.show()

# %% [markdown]
# Does the optimizer matter? The same step under `fsdp`, with three:

# %%
found = {
    "AdamW": exchanged(AdamW(), MESHES["fsdp 8"]),
    "StratOpt": moved["fsdp 8"],
    "Aardvark": exchanged(Aardvark(), MESHES["fsdp 8"]),
}
print(f"{'kB a step':9}", *(f"{kind:>18}" for kind in KINDS))
for name, by_kind in found.items():
    print(f"{name:9}", *(f"{by_kind.get(kind, 0) / 1e3:18.1f}" for kind in KINDS))

# %% [markdown]
# Read the picture from top to bottom. Replicas sum gradients and nothing else: 4 bytes for each
# of 133,440 parameters. Under `fsdp` each matrix is gathered for the forward and for the backward
# pass. Tensor parallelism halves what is gathered and adds sums of activations, whose size goes
# with the batch and not with the model. The optimizers differ by nothing that shows: clips and
# norms need sums over devices, but all norms travel in one small vector.
#
# The compiler decides in what form: XLA for CPUs writes the sum of a sharded gradient as an
# all-reduce of which each device keeps a piece, where a GPU has a reduce-scatter.
#
# ## What to change next
#
# - `MeshConfig(data=1, fsdp=2, tensor=4)`: which leaves stop being cut, and what does the model
#   say to `tensor=8`?
# - `Aardvark(clip_mode="per_tensor")`: does a clip of each layer cost more than one of all?
# - `python -m train plan paper_consistent --mesh.fsdp 8`: the same questions for 134 million
#   parameters.
