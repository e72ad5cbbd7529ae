# %% [markdown]
# # Quickstart
#
# You will learn to put {py:func}`~optax_strat.stratopt` and {py:func}`~optax_strat.aardvark`
# where any optimizer of Optax goes, first on a function of two numbers, then on a small
# transformer, and to ask afterwards what they did to each layer type.

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
    read_statistics,
    record_statistics,
    stratopt,
    warmup_cosine,
)
from train.data import DataConfig, open_dataset
from train.tasks.loss import batch_loss

# %% [markdown]
# ## A valley
#
# Rosenbrock's function has a curved, flat valley that ends in its minimum at $(1, 1)$. All three
# optimizers get the same start, the same schedule and no weight decay. A bare array has no name,
# so its layer type is `other`, with a multiplier of 1.


# %%
def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def descend(optimizer, start, steps):
    """All points on the way down."""

    def step(carry, _):
        x, state = carry
        updates, state = optimizer.update(jax.grad(rosenbrock)(x), state, x)
        return (optax.apply_updates(x, updates), state), x

    return jax.lax.scan(step, (start, optimizer.init(start)), length=steps)[1]


STEPS = 3000
rate = warmup_cosine(0.02, STEPS, warmup_steps=300)
optimizers = {
    "AdamW": optax.adamw(rate, weight_decay=0.0),
    "StratOpt": stratopt(rate, weight_decay=0.0),
    "Aardvark": aardvark(rate, weight_decay=0.0),
}
start = jnp.array([-1.2, 1.0])
paths = {name: np.asarray(descend(tx, start, STEPS)) for name, tx in optimizers.items()}

# %%
figure, (valley, heights) = plt.subplots(1, 2, width_ratios=(3, 2))
x, y = np.meshgrid(np.linspace(-1.6, 1.4, 200), np.linspace(-0.4, 1.9, 200))
levels = np.logspace(-1, 3, 9)
valley.contour(x, y, rosenbrock((x, y)), levels, colors="#7A7A7A", linewidths=0.5, alpha=0.5)
for (name, path), style in zip(paths.items(), ("-", "--", "-."), strict=True):
    (line,) = valley.plot(*path.T, style)
    heights.semilogy(rosenbrock(path.T), style)
    heights.annotate(f" {name}", (STEPS, rosenbrock(path[-1])), color=line.get_color(), va="center")
valley.plot(1, 1, "*", color="#E69F00", markersize=12)
valley.set(title="Three ways to the minimum (star)", xlabel="x", ylabel="y")
heights.set(title="Height above it", xlabel="step")
plt.show()

# %% [markdown]
# With one array there are no strata to tell apart, and still the three differ. The first gradient
# is 230 long. AdamW's second moment remembers it for a thousand steps, in which it crawls; the
# other two clip it to 1 before anything sees it. Close to the minimum these two wobble: gradients
# become tiny, the second moment with them, and steps too long for the valley. Any rise of a tiny
# gradient is also a large $\alpha_t$, which makes StratOpt's hops the highest. Two controls, one
# for each reason:

# %%
clipped = optax.chain(optax.clip_by_global_norm(1.0), optimizers["AdamW"])
unscaled = stratopt(rate, weight_decay=0.0, scale_bounds=(1.0, 1.0))
paths["AdamW behind a clip at 1"] = np.asarray(descend(clipped, start, STEPS))
paths["StratOpt with α = 1"] = np.asarray(descend(unscaled, start, STEPS))
for name, path in paths.items():
    height = rosenbrock(path.T)
    print(f"{name:25} at step 500: {height[500]:.0e}   highest after it: {height[500:].max():.0e}")

# %% [markdown]
# The clip alone ends the crawl, and without $\alpha_t$ StratOpt hops about as low as Aardvark.
# {doc}`StratOpt's anatomy <anatomy_of_stratopt>` says more.
#
# ## A transformer
#
# The smallest preset, 0.13 million parameters, on bytes of the Python standard library.
# {py:func}`~optax_strat.describe` says what the optimizers will make of its parameters.

# %%
model = dataclasses.replace(PRESETS["nano"], dtype="float32")
params = init(model, jax.random.key(0))
print(describe(params))

# %% [markdown]
# The training step is the one that you have already. `record_statistics` around an optimizer
# keeps the norms of its last step in the state.

# %%
STEPS = 300
data = open_dataset(DataConfig(source="stdlib"))
batches = itertools.islice(data.train_batches(batch_size=8, context=64, seed=0), STEPS)
batches = jax.tree.map(lambda *rows: np.stack(rows), *batches)


def loss_fn(params, batch):
    total, tokens = batch_loss(model, params, batch)
    return total / tokens


def train(optimizer):
    """Losses and statistics of every step."""

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), (loss, read_statistics(state))

    run = jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), batches)[1])
    return run(params)


rate = warmup_cosine(1e-3, STEPS, warmup_steps=30)
optimizers = {
    "AdamW": optax.adamw(rate, b2=0.98),
    "StratOpt": stratopt(rate, b2=0.98),
    "Aardvark": aardvark(rate, b2=0.98),
}
runs = {name: train(record_statistics(tx)) for name, tx in optimizers.items()}

# %%
TYPES = ("embedding", "attention", "mlp", "head", "norm")
adamw = runs["AdamW"][1]["update"]
figure, (losses, sizes) = plt.subplots(1, 2)
looks = zip(runs.items(), ("-", "--", "-."), "osD", strict=True)
for (name, (loss, statistics)), style, marker in looks:
    smooth = np.convolve(loss, np.ones(20) / 20, "valid")
    (line,) = losses.plot(np.arange(20, STEPS + 1), smooth, style, label=name)
    ratios = [np.mean(statistics["update"][kind]) / np.mean(adamw[kind]) for kind in TYPES]
    sizes.plot(TYPES, ratios, marker, color=line.get_color())
sizes.plot(TYPES, [MULTIPLIERS[kind] for kind in TYPES], "_", color="#7A7A7A", markersize=22)
losses.set(title="Training loss, mean of 20 steps", xlabel="step", ylabel="nats per byte")
losses.legend()
sizes.set(title="Update norm / AdamW's (– multiplier)", ylim=(0, 2))
sizes.tick_params(axis="x", rotation=30)
plt.show()

# %% [markdown]
# One seed at one rate: the left side shows that all three train, not which is better; for that
# see {doc}`From records to conclusions <comparison>`. The right side shows the strata, as means
# over the run. Aardvark's updates are longer than AdamW's where its multipliers say so, though
# not to the digit: the two take different paths, and Adam's step depends on how steady the
# gradients along the path are. StratOpt's are longest in attention, whose gradients grow during
# this run. Aardvark's multipliers themselves are in the state:

# %%
for kind in TYPES:
    alpha = float(runs["Aardvark"][1]["alpha"][kind][-1])
    print(f"{kind:9}  multiplier {alpha:.1f}")

# %% [markdown]
# ## What to change next
#
# - `stratopt(rate, reference="layer_mean")`: layers compared with each other instead of their own
#   past.
# - `aardvark(rate, scaling="adaptive")`: multipliers that follow the measured gradients.
# - Your own parameters in `describe(...)`: {doc}`which layer types <layer_types>` are they?
