# %% [markdown]
# # Your own transformation
#
# You will write a stratified transformation in twenty lines, put it through the conformance suite
# that the optimizers of this library pass, and see the suite catch a mistake that everybody makes
# once.

# %%
import dataclasses
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from models import PRESETS, init
from optax_strat import LayerType, layer_types, norms_by_layer_type, warmup_cosine
from train.data import DataConfig, open_dataset
from train.tasks.loss import batch_loss

jax.config.update("jax_num_cpu_devices", 8)  # one of the checks wants a mesh

# %% [markdown]
# ## The idea
#
# Gradients of the head are often several times as large as those of the embedding. Divide each
# layer type's gradients by a running average of that type's norm, and all types go on with norm
# 1:
#
# $$u_l = \frac{g_l}{\mathrm{EMA}\,\|g_l\| + \epsilon}$$
#
# ## The code


# %%
class EqualizeState(NamedTuple):
    """The number of steps, and the average norm of each layer type, float32 of shape (7,)."""

    count: jax.Array
    norms: jax.Array


def equalize_layer_types(decay=0.9, eps=1e-8):
    """Divides each layer type's gradients by a running average of their norm."""

    def init(params):
        return EqualizeState(jnp.zeros([], jnp.int32), jnp.zeros(len(LayerType), jnp.float32))

    def update(updates, state, params=None, **extra_args):
        found = norms_by_layer_type(updates)
        now = jnp.stack([found.get(kind, jnp.float32(0.0)) for kind in LayerType])
        count = optax.safe_increment(state.count)
        norms = (decay * state.norms + (1 - decay) * now).astype(jnp.float32)
        average = dict(zip(LayerType, norms / (1 - decay**count) + eps, strict=True))
        scaled = jax.tree.map(
            lambda g, kind: (g / average[kind]).astype(g.dtype), updates, layer_types(updates)
        )
        return scaled, EqualizeState(count, norms)

    return optax.GradientTransformationExtraArgs(init, update)


# %% [markdown]
# Three habits are worth copying. What is known of the strata is **one vector** in the state, not
# a tree like the parameters: such a tree breaks on annotated meshes. Norms are **float32**
# whatever the parameters are. And the update has **the dtype of the gradient**.
#
# ## Does it do what it should?

# %%
gradients = {"embed": jnp.full((4, 4), 0.1), "head": jnp.full((4, 4), 10.0)}
tx = equalize_layer_types()
updates, state = tx.update(gradients, tx.init(gradients))
for kind, norm in norms_by_layer_type(updates).items():
    print(f"{kind:9}  norm {float(norm):.4f}")
    np.testing.assert_allclose(norm, 1.0, rtol=1e-5)

# %% [markdown]
# ## The conformance suite
#
# `tests/optax_strat/test_conformance.py` asks of every entry of one table what Optax asks of its
# own optimizers. In a clone, add a line to `TABLE` in `tests/support/optimizers.py` and run
# `pytest tests/optax_strat/test_conformance.py -k equalize`. Here the checks are called plainly; no
# error means that it passed.

# %%
from tests.optax_strat import test_conformance
from tests.support import optimizers


def equalized_sgd(learning_rate):
    return optax.chain(equalize_layer_types(), optax.sgd(learning_rate))


optimizers.TABLE["equalize"] = equalized_sgd
test_conformance.test_a_step_compiles_once_and_equals_the_eager_one("equalize")
for dtype in ("float16", "bfloat16", "float32", "float64", "complex64"):
    test_conformance.test_shapes_and_dtypes_are_stable_in_loops("equalize", dtype)
test_conformance.test_sharding_types_are_stable_on_explicit_meshes("equalize")
test_conformance.test_updates_keep_the_dtype_of_the_gradients("equalize")
test_conformance.test_numbers_can_be_injected("equalize")
test_conformance.test_gradients_can_be_accumulated("equalize")
test_conformance.test_schedules_are_followed("equalize")
test_conformance.test_init_is_abstract("equalize")

# %% [markdown]
# ## A mistake that it catches
#
# Forget the dtype of the gradient: the average is float32, so half-precision gradients come out
# in float32. It trains, slower, until a loop refuses it.


# %%
def careless(decay=0.9):
    careful = equalize_layer_types(decay)

    def update(updates, state, params=None, **extra_args):
        in_float32 = jax.tree.map(lambda g: g.astype(jnp.float32), updates)
        return careful.update(in_float32, state, params)

    return optax.GradientTransformationExtraArgs(careful.init, update)


optimizers.TABLE["careless"] = lambda rate: optax.chain(careless(), optax.sgd(rate))
try:
    test_conformance.test_updates_keep_the_dtype_of_the_gradients("careless")
except AssertionError as error:
    print(str(error).strip().splitlines()[0])
else:
    raise AssertionError("the suite should have caught this")

# %% [markdown]
# ## On a model
#
# In front of Adam it would be lost: Adam divides by its own second moment and undoes any steady
# factor. In front of plain momentum it decides how far each type moves.

# %%
STEPS = 200
model = dataclasses.replace(PRESETS["nano"], dtype="float32")
data = open_dataset(DataConfig(source="stdlib"))
batches = itertools.islice(data.train_batches(batch_size=8, context=64, seed=0), STEPS)
batches = jax.tree.map(lambda *rows: np.stack(rows), *batches)


def loss_fn(params, batch):
    total, tokens = batch_loss(model, params, batch)
    return total / tokens


@jax.jit
def run(params):
    rate = warmup_cosine(0.05, STEPS, warmup_steps=20)
    optimizer = optax.chain(equalize_layer_types(), optax.trace(0.9), optax.scale_by_schedule(rate))

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, jax.tree.map(jnp.negative, updates))
        measured = norms_by_layer_type(grads), norms_by_layer_type(updates)
        return (params, state), (loss, *measured)

    return jax.lax.scan(step, (params, optimizer.init(params)), batches)[1]


loss, before, after = run(init(model, jax.random.key(0)))

# %%
TYPES = ("embedding", "attention", "mlp", "head")
rates = np.asarray(warmup_cosine(0.05, STEPS, warmup_steps=20)(np.arange(STEPS)))
steps = {kind: after[kind] / rates for kind in TYPES}


def smooth(norms):
    """The geometric mean of 20 steps."""
    return np.exp(np.convolve(np.log(norms), np.ones(20) / 20, "valid"))


figure, panels = plt.subplots(1, 2, sharey=True)
for kind, style in zip(TYPES, ("-", "--", "-.", ":"), strict=True):
    for axes, norms in zip(panels, (before, steps), strict=True):
        axes.semilogy(np.arange(20, STEPS + 1), smooth(norms[kind]), style, label=kind)
panels[0].set(title="Gradient norm by type", xlabel="step", ylabel="mean of 20 steps")
panels[1].set(title="Update norm / learning rate", xlabel="step")
panels[1].legend(ncols=2, loc="lower center")
plt.show()

for name, norms in {"gradients": before, "updates": steps}.items():
    last = [float(smooth(norms[kind])[-1]) for kind in TYPES]
    print(f"{name:9}  largest type / smallest, at the end: {max(last) / min(last):.1f}")
assert np.mean(loss[-20:]) < np.mean(loss[:20])

# %% [markdown]
# On the left the types are up to ten times apart, on the right two or three times. What is left
# is the momentum's: with 0.9 it adds up the last ten gradients or so, and reaches ten times one
# of them if all point the same way, but hardly three times if they are noise.
#
# ## What to change next
#
# - Replace the average over time by the mean over types, and look at the right figure again.
# - Measure the layers instead of the types, with {py:func}`~optax_strat.per_layer` around a rule
#   per tensor.
# - Send your optimizer through the {doc}`comparison <comparison>`.
