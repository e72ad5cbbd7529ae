# %% [markdown]
# # Second-order strata
#
# You will give the hidden matrices of a transformer to Muon and the rest to Adam, in one
# {py:func}`~optax_strat.stratify`, see what Muon does to an update that Adam does not, and
# compare the two over learning rates and seeds. It is what section 6 of the StratOpt paper calls
# "integration with second-order methods".

# %%
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from models import PRESETS, init
from optax_strat import find_states, scale_by_muon, stratify, warmup_cosine
from train.data import DataConfig, open_dataset
from train.report.statistics import estimate, paired_difference
from train.tasks.loss import batch_loss

STEPS, SEEDS = 200, 3
model = dataclasses.replace(PRESETS["nano"], dtype="float32")
data = open_dataset(DataConfig(source="stdlib"))


def loss_fn(params, batch):
    total, tokens = batch_loss(model, params, batch)
    return total / tokens


def read(seed):
    """All batches of a run."""
    batches = itertools.islice(data.train_batches(batch_size=8, context=64, seed=seed), STEPS)
    return jax.tree.map(lambda *rows: np.stack(rows), *batches)


# %% [markdown]
# ## Two optimizers from one mould
#
# Groups are *directions*; the clip, the decay and the learning rate that all share stand outside,
# once. Without a `learning_rate` the result is a direction too, which lets one compiled program
# serve every rate below.

# %%
ADAM = optax.scale_by_adam(b2=0.98)
HIDDEN, REST = ("attention", "mlp"), ("embedding", "head", "norm")
optimizers = {
    "Adam": stratify({(*HIDDEN, *REST): ADAM}, clip=1.0, weight_decay=0.1),
    "Muon": stratify({HIDDEN: scale_by_muon(), REST: ADAM}, clip=1.0, weight_decay=0.1),
}
schedule = warmup_cosine(1.0, STEPS, warmup_steps=20)

# %% [markdown]
# ## What Muon does to a matrix
#
# The momentum of a matrix is dominated by a few directions: its singular values fall fast. Adam
# divides entry by entry, which does not change that much. Muon makes all singular values nearly
# equal, so that small directions are learned as fast as large ones. Here are the singular values
# of one update of one MLP matrix, each divided by the largest.

# %%
params = init(model, jax.random.key(0))
batches = read(seed=0)
grads = jax.jit(jax.grad(loss_fn))(params, jax.tree.map(lambda rows: rows[0], batches))
figure, axes = plt.subplots(figsize=(7.2, 2.6))
LOOKS = {"SGD": "C6:", "Adam": "C0-o", "Muon": "C1--s"}
for name, tx in {"SGD": optax.identity(), **optimizers}.items():
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    values = jnp.linalg.svdvals(updates["layers"]["mlp"]["up"]["kernel"][0])
    (line,) = axes.semilogy(values / values[0], LOOKS[name], markevery=5, markersize=4)
    axes.annotate(
        name,
        (45, values[45] / values[0]),
        xytext=(0, 5),
        textcoords="offset points",
        color=line.get_color(),
    )
axes.set(title="Singular values of an update, largest = 1", xlabel="index", ylim=(1e-3, 2))
plt.show()
assert float(jnp.median(values) / values[0]) > 0.5  # Muon's, which came last

# %% [markdown]
# The lines of SGD and Adam fall; Muon's is nearly flat (five Newton-Schulz steps make it so,
# roughly).
#
# ## Rates and seeds
#
# Each method at five learning rates on three seeds. Within a seed both start from the same
# parameters and read the same batches, so that differences pair up. The number is the mean
# training loss of the last 20 of 200 steps.


# %%
def losses_of(tx):
    """The final loss of a run, as a compiled function of parameters, batches and rate."""

    @jax.jit
    def run(params, batches, rate):
        def step(carry, batch):
            params, state, count = carry
            loss, grads = jax.value_and_grad(loss_fn)(params, batch)
            direction, state = tx.update(grads, state, params)
            step_size = -rate * schedule(count)
            params = jax.tree.map(lambda p, d: p + step_size * d, params, direction)
            return (params, state, count + 1), loss

        return jax.lax.scan(step, (params, tx.init(params), 0), batches)[1][-20:].mean()

    return run


RATES = (1e-3, 3e-3, 1e-2, 3e-2, 1e-1)
runs = {seed: (init(model, jax.random.key(seed)), read(seed)) for seed in range(SEEDS)}
losses = {}
for name, tx in optimizers.items():
    run = losses_of(tx)
    losses[name] = {
        rate: {seed: float(run(*start, rate)) for seed, start in runs.items()} for rate in RATES
    }

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for name, by_rate in losses.items():
    found = [estimate(list(by_seed.values())) for by_seed in by_rate.values()]
    mean, half = [e.mean for e in found], [e.half_width for e in found]
    line = axes.errorbar(RATES, mean, half, fmt=LOOKS[name], capsize=3)[0]
    axes.annotate(f"  {name}", (RATES[-1], mean[-1]), color=line.get_color(), va="bottom")
axes.set_xscale("log")
axes.set(title="Loss after 200 steps: mean of 3 seeds, 95 % interval", xlabel="learning rate")
axes.set_ylabel("nats per byte")
plt.show()

# %%
best = {
    name: min(by_rate, key=lambda r: sum(by_rate[r].values())) for name, by_rate in losses.items()
}
difference = paired_difference(losses["Muon"][best["Muon"]], losses["Adam"][best["Adam"]])
print(f"best rates: {best}")
interval = f"{difference.mean:+.3f} ± {difference.half_width:.3f}"
print(f"Muon - Adam, each at its best: {interval} nats per byte, n = {difference.n}")

# %% [markdown]
# The difference is of 0.13 million parameters after 0.1 million tokens. Both best rates were
# chosen by the same numbers that are compared, on a coarse grid;
# {doc}`the comparison <comparison>` does it on equal budgets.
#
# ## One count a group
#
# Each group has one state. Moments exist only where a group has parameters, so Muon's matrices
# have no second moment:

# %%
for name, tx in optimizers.items():
    state = jax.eval_shape(tx.init, params)
    entries = sum(leaf.size for leaf in jax.tree.leaves(state))
    total = sum(leaf.size for leaf in jax.tree.leaves(params))
    moments = [type(found).__name__ for found in find_states(state, optax.ScaleByAdamState)]
    print(
        f"{name:5} {4 * entries / total:.2f} bytes of state a parameter; {len(moments)} Adam state"
    )

# %% [markdown]
# ## What to change next
#
# - `optax.chain(ADAM, optax.scale(0.3))` for `REST`: its own rate for the embedding and the head.
# - `per_layer(optax.contrib.scale_by_...)` for another matrix method:
#   {py:func}`~optax_strat.per_layer` shows it each layer by itself.
# - `scale_by_muon(ns_steps=2)`: how many Newton-Schulz steps does the loss need?
