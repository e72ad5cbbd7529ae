# %% [markdown]
# # Anatomy of Aardvark
#
# You will measure the paper's Table 2 on a small model, hold its multipliers against what the
# gradients ask for, find the law that connects the two, and see what a gradient clip does on
# either side of a partition. As in {doc}`the other anatomy <anatomy_of_stratopt>`, a check that
# fails would stop this page from being built.

# %%
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from models import PRESETS, init
from optax_strat import (
    MULTIPLIERS,
    aardvark,
    describe,
    layer_types,
    norms_by_layer_type,
    read_statistics,
    record_statistics,
    warmup_cosine,
)
from train.data import DataConfig, open_dataset
from train.tasks.loss import batch_loss

TYPES = ("embedding", "attention", "mlp", "head")
STYLES = dict(zip(TYPES, ("-", "--", "-.", ":"), strict=True))
TABLE_2 = {"embedding": 0.47, "attention": 0.82, "mlp": 0.65, "head": 1.12}

# %% [markdown]
# ## Table 2, live
#
# The paper reports the average gradient norm of each layer type at the last step of one run. Here
# are all steps of a small one, under adaptive multipliers, which
# {py:func}`~optax_strat.record_statistics` records beside the norms.

# %%
STEPS = 400
model = dataclasses.replace(PRESETS["nano"], dtype="float32")
params = init(model, jax.random.key(0))
data = open_dataset(DataConfig(source="stdlib"))
batches = itertools.islice(data.train_batches(batch_size=8, context=64, seed=0), STEPS)
batches = jax.tree.map(lambda *rows: np.stack(rows), *batches)


def loss_fn(params, batch):
    total, tokens = batch_loss(model, params, batch)
    return total / tokens


@jax.jit
def run(params):
    rate = warmup_cosine(1e-3, STEPS, warmup_steps=40)
    optimizer = record_statistics(aardvark(rate, b2=0.98, scaling="adaptive"), ["gradient"])

    def step(carry, batch):
        params, state = carry
        grads = jax.grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        return (optax.apply_updates(params, updates), state), read_statistics(state)

    return jax.lax.scan(step, (params, optimizer.init(params)), batches)[1]


statistics = jax.device_get(run(params))

# %%
figure, (norms, multipliers) = plt.subplots(1, 2)
for kind, style in STYLES.items():
    smooth = np.exp(np.convolve(np.log(statistics["gradient"][kind]), np.ones(20) / 20, "valid"))
    (line,) = norms.semilogy(np.arange(20, STEPS + 1), smooth, style)
    multipliers.plot(statistics["alpha"][kind], style)
    for axes, printed in ((norms, TABLE_2), (multipliers, MULTIPLIERS)):
        axes.annotate(
            f"● {kind}",
            (STEPS + 10, printed[kind]),
            color=line.get_color(),
            va="center",
            annotation_clip=False,
        )
norms.set(title="Gradient norm (● Table 2)", xlabel="step")
multipliers.set(title="Adaptive multiplier (● equation 1)", xlabel="step", ylim=(0, 4))
plt.show()

# %% [markdown]
# Norms are means over 20 steps. The dots are another model, other data and 134 million
# parameters, so nothing has to meet. Look at the order: here the embedding ends with the largest
# multiplier, about 2, where equation 1 gives it the smallest, and the MLPs end below 1. And look at
# the change: a fixed multiplier is one of these curves at one step.
# (The left side has the norm of all of a type together; the rule on the right holds the mean over
# a type's layers against the geometric mean of all four.)
#
# (law)=
# ## The 2/3 law
#
# Table 2 and equation 1 are four numbers each. On logarithmic axes they lie on a line through the
# embedding, whose slope is found by least squares:

# %%
ratio = np.array([TABLE_2[kind] / TABLE_2["embedding"] for kind in TYPES])
printed = np.array([MULTIPLIERS[kind] for kind in TYPES])
slope = float(np.log(ratio) @ np.log(printed) / (np.log(ratio) @ np.log(ratio)))
print(f"slope {slope:.3f}, from 3 points")

# %% [markdown]
# That is close to 2/3, and so `scaling="adaptive"` reads "we dynamically adjust rates based on
# gradient statistics" (section 2) as
#
# $$
# \alpha_l = c \left(\frac{\mathrm{EMA}\,\|g_l\|}{\bar g}\right)^{2/3}
# $$
#
# with $\bar g$ the geometric mean of the four averages, steadier than one of them, and $c$ the
# constant that gives the embedding of Table 2 its 1. At the norms of Table 2 the optimizer itself
# gives equation 1 within 4 %:

# %%
kernels = {"embed": "embedding", "attn": "attention", "mlp": "mlp", "lm_head": "head"}
gradients = {name: jnp.full((8, 8), TABLE_2[kind] / 8) for name, kind in kernels.items()}
tx = aardvark(1.0, scaling="adaptive", weight_decay=0.0)
updates, _ = tx.update(gradients, tx.init(gradients), gradients)
measured = np.array([-float(updates[name][0, 0]) for name in kernels])
for kind, ours in zip(TYPES, measured, strict=True):
    norm, theirs = TABLE_2[kind], MULTIPLIERS[kind]
    print(f"{kind:9}  norm {norm:.2f}  adaptive {ours:.2f}  printed {theirs:.1f}")
np.testing.assert_allclose(measured, [1.00, 1.45, 1.24, 1.78], atol=5e-3)
np.testing.assert_allclose(measured, printed, rtol=0.04)

# %%
figure, axes = plt.subplots(figsize=(4.6, 3.2))
x = np.geomspace(0.5, 4, 20)
axes.loglog(x, x ** (2 / 3), color="#7A7A7A")
axes.text(0.62, 0.62, "slope 2/3")
for kind, marker in zip(TYPES, "osD^", strict=True):
    place = TABLE_2[kind] / TABLE_2["embedding"], MULTIPLIERS[kind]
    (point,) = axes.plot(*place, marker, markersize=8)
    axes.annotate(
        kind,
        place,
        xytext=(-8, 6),
        textcoords="offset points",
        ha="right",
        color=point.get_color(),
    )
axes.set_xticks([0.5, 1, 2, 4], ["0.5", "1", "2", "4"])
axes.set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
axes.minorticks_off()
axes.set(title="Equation 1 against Table 2", xlabel="norm / embedding's norm", ylabel="multiplier")
plt.show()

# %% [markdown]
# Three points cannot tell 2/3 from 0.7. They can tell it from 1 (rates in proportion to norms)
# and from 1/2.
#
# (multiplier-worth)=
# ## What a multiplier is worth
#
# Adam's step has no unit, so the multiplier *is* the ratio of the learning rates. In the first
# step an entry moves by exactly $\eta \alpha_l$, if it has a gradient at all (bytes that do not
# occur have none):

# %%
grads = jax.jit(jax.grad(loss_fn))(params, jax.tree.map(lambda rows: rows[0], batches))
tx = aardvark(1.0, weight_decay=0.0)
updates, _ = tx.update(grads, tx.init(params), params)
labels = jax.tree.leaves(layer_types(params))
for kind in TYPES:
    moved = [
        jnp.abs(u).ravel()
        for u, k in zip(jax.tree.leaves(updates), labels, strict=True)
        if k == kind
    ]
    largest = float(jnp.concatenate(moved).max())
    print(f"{kind:9}  {largest:.4f}")
    np.testing.assert_allclose(largest, MULTIPLIERS[kind], rtol=1e-3)

# %% [markdown]
# The mean over all parameters is above 1, and so a part of what the multipliers do is what a
# higher learning rate does. `scaling="normalized"` divides by that mean: the control.

# %%
for name, config in PRESETS.items():
    tree = jax.eval_shape(lambda config=config: init(config, jax.random.key(0)))
    mean = sum(row.multiplier * row.share for row in describe(tree).rows)
    print(f"{name:10}  mean multiplier {mean:.3f}")

# %% [markdown]
# (partition)=
# ## Inside or outside the partition
#
# Equation 3 clips, equation 2 scales by type. Who builds that from `optax.partition` has two
# places for the clip, and they differ. *Outside*, one factor scales all gradients, and directions
# stay. *Inside*, each group is clipped by its own norm: the ratios between the types are lost,
# and the whole can be as long as the square root of the number of groups.

# %%
large = jax.tree.map(lambda g: 4 * g, grads)
clip = optax.clip_by_global_norm(1.0)
groups = dict.fromkeys((*TYPES, "norm"), clip)
inside = optax.partition(groups, layer_types)
clipped = {
    "before": large,
    "outside": clip.update(large, clip.init(params))[0],
    "inside": inside.update(large, inside.init(params))[0],
}
rows = {place: jax.device_get(norms_by_layer_type(tree)) for place, tree in clipped.items()}
print(f"{'':9}", *(f"{kind:>10}" for kind in TYPES), f"{'together':>10}")
for place, by_type in rows.items():
    together = float(optax.tree.norm(clipped[place]))
    print(f"{place:9}", *(f"{by_type[kind]:10.3f}" for kind in TYPES), f"{together:10.3f}")
np.testing.assert_allclose(float(optax.tree.norm(clipped["outside"])), 1.0, rtol=1e-5)
assert float(optax.tree.norm(clipped["inside"])) > 1.5

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.6))
for offset, (place, by_type) in enumerate(rows.items()):
    places = np.arange(len(TYPES)) + 0.27 * (offset - 1)
    axes.bar(places, [by_type[kind] for kind in TYPES], 0.25, label=place)
axes.set_xticks(range(len(TYPES)), TYPES)
axes.grid(axis="x", visible=False)
axes.set(title="Gradient norm before and after a clip at 1", ylabel="norm")
axes.legend(ncols=3)
plt.show()

# %% [markdown]
# {py:func}`~optax_strat.aardvark` and {py:func}`~optax_strat.stratify` clip outside. A clip of
# each layer by itself is `clip_mode="per_tensor"`, and is meant where it is written.
#
# ## What to change next
#
# - `scaling=Adaptive(decay=0.9)` in the first run: how fast can multipliers follow before they are
#   noise?
# - `PRESETS["micro"]`: is the order of the norms that of `nano`?
# - `multipliers={"head": 1.0}`, and the curves of {doc}`the comparison <comparison>`.
