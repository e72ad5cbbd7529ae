# %% [markdown]
# # Anatomy of StratOpt
#
# You will take {py:func}`~optax_strat.stratopt` apart: what the missing bias correction does and
# how a warm-up carries it, what the scaling factor $\alpha_t$ does to each layer of a model under
# four reference norms, what it leaves invariant, and what it does to a spike. Each claim is
# derived in a line and then checked: a cell whose check fails would stop this page from being
# built. {doc}`The theory </theory>` has the derivations in full.

# %%
import dataclasses
import itertools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from matplotlib.colors import LogNorm

from models import PRESETS, init
from optax_strat import (
    ClipToReference,
    ScaleByStratoptState,
    find_states,
    scale_by_stratopt,
    strata_names,
    stratopt,
    warmup_cosine,
)
from train.data import DataConfig, open_dataset
from train.tasks.loss import batch_loss

# %% [markdown]
# (first-steps)=
# ## The first steps are too long
#
# Section 3.1 of the paper prints Adam's moments without their correction. Adam divides
# $\hat m_t = m_t / (1 - \beta_1^t)$ by $\sqrt{\hat v_t} = \sqrt{v_t / (1 - \beta_2^t)}$, so that,
# whatever the gradients are,
#
# $$
# \frac{m_t}{\sqrt{v_t}} = o_t \frac{\hat m_t}{\sqrt{\hat v_t}}, \qquad o_t = \frac{1 -
# \beta_1^t}{\sqrt{1 - \beta_2^t}}
# $$
#
# The overshoot $o_t$ depends on the two decays alone. First the check, on random gradients:


# %%
def directions(gradients, **options):
    """What scale_by_stratopt makes of a sequence of gradients, and its states."""
    tx = scale_by_stratopt(**options)

    def step(state, gradient):
        direction, state = tx.update(gradient, state)
        return state, (direction, state)

    return jax.lax.scan(step, tx.init(jax.tree.map(lambda g: g[0], gradients)), gradients)[1]


def overshoot(t, b1=0.9, b2=0.999):
    return (1 - b1**t) / np.sqrt(1 - b2**t)


t = np.arange(1, 2001)
gradients = jax.random.normal(jax.random.key(0), (t.size, 50))
plain, _ = directions(gradients, layer_clip=None, eps=0.0)
corrected, _ = directions(gradients, layer_clip=None, eps=0.0, bias_correction=True)
np.testing.assert_allclose(plain / corrected, np.tile(overshoot(t)[:, None], 50), rtol=2e-3)

steady, _ = directions(jnp.ones((t.size, 1)), layer_clip=None)
np.testing.assert_allclose(steady[:, 0], overshoot(t), rtol=2e-3)
peak = int(t[np.argmax(overshoot(t))])
print(f"peak {overshoot(peak):.2f} at step {peak}; {overshoot(1000):.2f} at 1000")

# %% [markdown]
# 6.6 times Adam's step at step 12. The second decay decides: the slow $v_t$ is still small when
# $m_t$ has arrived. Near the peak $o_t \approx (1 - \beta_1^t) / \sqrt{t (1 - \beta_2)}$, so a
# ten times smaller $1 - \beta_2$ makes it $\sqrt{10}$ times as high.
#
# A warm-up multiplies by $\min(1, t / W)$ and has to outlast the overshoot, which lasts about
# $1 / (1 - \beta_2)$ steps.

# %%
figure, (left, right) = plt.subplots(1, 2, sharey=True, figsize=(7.2, 3.4))
for b2, style in zip((0.9999, 0.999, 0.99, 0.98, 0.95), ("-", "--", "-.", ":", "-"), strict=True):
    sizes = overshoot(t, b2=b2)
    (line,) = left.loglog(t, sizes, style)
    name = f"b2 = {b2}: {max(sizes):.1f} "
    left.text(1, sizes[0], name, color=line.get_color(), ha="right", va="center")
dots = np.unique(np.geomspace(1, t.size, 40).astype(int)) - 1
left.plot(t[dots], steady[dots, 0], ".", color="#7A7A7A", markersize=4)
left.set(title="Step / Adam's step, and its peak", xlabel="step", xlim=(0.01, None))
left.set_xticks([1, 10, 100, 1000])
for warmup, style in zip((0, 20, 100, 500, 2000), ("-", "--", "-.", ":", "-"), strict=True):
    sizes = np.minimum(1, t / max(warmup, 1)) * overshoot(t)
    right.loglog(t, sizes, style, label=f"{warmup} steps: {max(sizes):.1f}")
right.set(title="The same after a warm-up, b2 = 0.999", xlabel="step", ylim=(0.4, 45))
right.set_yticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
right.legend(loc="upper right")
for axes in (left, right):
    axes.minorticks_off()
plt.show()

# %% [markdown]
# The dots are the optimizer itself. With the default `b2=0.999` a warm-up of 100 steps still
# leaves steps of three times the rate; with `b2=0.98` they are 1.6 times as long at most, and for a
# hundred steps.
#
# (noise)=
# ## How far noise lets a layer move
#
# A layer's effective rate is $\eta\,\alpha_t$ times the root mean square of $m_t / \sqrt{v_t}$. Of
# gradients with a steady part $\mu$ and noise of deviation $\sigma$, and long after the start,
#
# $$
# \mathrm{RMS}\left(\frac{m_t}{\sqrt{v_t}}\right) \approx \sqrt{s + \frac{1 - \beta_1}{1 + \beta_1}
# (1 - s)}, \qquad s = \frac{\mu^2}{\mu^2 + \sigma^2}
# $$
#
# because $v_t$ sees all of the noise and $m_t$ averages most of it away. Each dot is the optimizer
# on 1,000 entries.

# %%
s = np.linspace(0, 1, 11)
noise = jax.random.normal(jax.random.key(2), (300, 1000, s.size))
noisy, _ = directions(np.sqrt(s) + np.sqrt(1 - s) * noise, layer_clip=None, bias_correction=True)
measured = np.sqrt(np.mean(noisy[-1] ** 2, axis=0))
predicted = np.sqrt(s + 0.1 / 1.9 * (1 - s))
np.testing.assert_allclose(measured, predicted, atol=0.02)

figure, axes = plt.subplots(figsize=(4.6, 2.8))
axes.plot(s, predicted, color="#7A7A7A")
axes.plot(s, measured, "o")
axes.set(title="Length of a step, in learning rates", ylim=(0, 1.1))
axes.set_xlabel("steady share s of the mean squared gradient")
plt.show()

# %% [markdown]
# A steady gradient takes steps of 1, pure noise steps of 0.23. So layers have rates of their own
# already, before any $\alpha_t$. And no sequence of gradients takes a step beyond 7.27 times the
# rate, or ten times that with $\alpha_t$; the longest needs gradients that grow by $\beta_2 /
# \beta_1$ a step:

# %%
growing = 1e-9 * (0.999 / 0.9) ** jnp.arange(400.0)
longest, states = directions(growing[:, None], layer_clip=None)
bound = 0.1 / np.sqrt(0.001 * (1 - 0.81 / 0.999))
alone = float(longest[-1, 0] / states.alpha[-1, 0])
print(f"bound {bound:.2f}; reached {alone:.2f}, with α {float(longest[-1, 0]):.1f}")
np.testing.assert_allclose(alone, bound, rtol=1e-3)

# %% [markdown]
# (scaling-factor)=
# ## A layer's scaling factor
#
# $$\alpha_t = \mathrm{clip}\left(\frac{\|g_t\|}{\bar g_t + \epsilon}, 0.1, 10\right)$$
#
# needs a reference norm $\bar g_t$, which the paper does not define. By default it is the layer's
# own norm, averaged over time. Here is a small model in training, with the norm and the factor of
# every layer at every step. The reference of a first step is the norm itself, so a fresh state
# measures norms.

# %%
STEPS = 400
model = dataclasses.replace(PRESETS["nano"], dtype="float32")
params = init(model, jax.random.key(0))
names = strata_names(params)
data = open_dataset(DataConfig(source="stdlib"))
batches = itertools.islice(data.train_batches(batch_size=8, context=64, seed=0), STEPS)
batches = jax.tree.map(lambda *rows: np.stack(rows), *batches)


def loss_fn(params, batch):
    total, tokens = batch_loss(model, params, batch)
    return total / tokens


@jax.jit
def run(params):
    optimizer = stratopt(warmup_cosine(1e-3, STEPS, warmup_steps=40), b2=0.98, layer_clip=None)
    measure = scale_by_stratopt(layer_clip=None)

    def step(carry, batch):
        params, state = carry
        loss, grads = jax.value_and_grad(loss_fn)(params, batch)
        updates, state = optimizer.update(grads, state, params)
        (scaled,) = find_states(state, ScaleByStratoptState)
        _, measured = measure.update(grads, measure.init(grads))
        params = optax.apply_updates(params, updates)
        return (params, state), (loss, scaled.alpha, measured.gbar)

    return jax.lax.scan(step, (params, optimizer.init(params)), batches)[1]


loss, alpha, norms = map(np.asarray, run(params))

# %%
shown = [i for i, name in enumerate(names) if "norm" not in name]
figure, axes = plt.subplots(figsize=(7.2, 3.6))
image = axes.imshow(
    alpha[:, shown].T, aspect="auto", cmap="PuOr", norm=LogNorm(1 / 3, 3), interpolation="nearest"
)
axes.set_yticks(
    range(len(shown)), [names[i].replace("/kernel", "").replace("layers/", "") for i in shown]
)
axes.grid(visible=False)
axes.set(title="α of every matrix, step by step", xlabel="step")
figure.colorbar(image, ticks=[1 / 3, 1, 3], format="{x:.2g}", label="α").minorticks_off()
plt.show()

# %% [markdown]
# Vertical stripes are batches whose gradients are large in all layers. The brown band is the
# start, where gradients fall fast and the reference still remembers larger ones: there α slows
# all layers down. A row that stays purple is a layer whose gradients grow. So α answers to
# *change*, on the scale of the average's 100 steps.
#
# (references)=
# ## Four reference norms
#
# The factor depends on gradients through their norms alone. So the norms of this run can be
# played again under each reference, as gradients of one entry each:

# %%
references = ("ema", "running_mean", "layer_mean", "global_ema")
played = [norms[:, [i]] for i in range(len(names))]
alphas = {}
for reference in references:
    _, states = directions(played, reference=reference, layer_clip=None, scale_bounds=None)
    alphas[reference] = np.asarray(states.alpha)
np.testing.assert_allclose(np.clip(alphas["ema"], 0.1, 10), alpha, rtol=1e-3)

pick = [
    "embed/embedding",
    "layers/attention/query/kernel[0]",
    "layers/mlp/down/kernel[0]",
    "head/kernel",
]
figure, axes = plt.subplots(1, 4, sharey=True, figsize=(7.2, 2.8))
for axis, (reference, values) in zip(axes, alphas.items(), strict=True):
    for name in pick:
        axis.semilogy(values[:, names.index(name)], label=name.split("/kernel")[0], linewidth=1)
    axis.set(title=reference, xlabel="step")
axes[0].set_ylabel("α, without bounds")
figure.legend(*axes[0].get_legend_handles_labels(), ncols=4, loc="outside upper center")
plt.show()

# %% [markdown]
# Against the past (`ema`, `running_mean`) a factor above 1 means that the gradients are growing.
# Against the other layers (`layer_mean`, `global_ema`) a layer with large gradients has a higher
# rate for good. The average of a layer's factor over time is its effective learning rate, in
# units of $\eta$:

# %%
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for reference, marker in zip(references, "osD^", strict=True):
    axes.semilogy(alphas[reference][100:, shown].mean(0), marker, label=reference, alpha=0.8)
labels = [names[i].replace("/kernel", "").replace("layers/", "") for i in shown]
axes.set_xticks(range(len(shown)), labels, rotation=60, ha="right", fontsize=7)
axes.set(title="Effective rate of each matrix: mean α over steps 100 to 400 of one run")
axes.set(ylabel="learning rates η", ylim=(0.015, None))
axes.legend(ncols=4, loc="lower center")
plt.show()
spread = {r: np.ptp(np.log(alphas[r][100:, shown].mean(0))) for r in references}
for reference, logarithm in spread.items():
    print(f"{reference:12}  largest / smallest {np.exp(logarithm):6.1f}")
assert np.exp(spread["ema"]) < 4 < 20 < np.exp(spread["layer_mean"])

# %% [markdown]
# (invariance)=
# ## What is left invariant
#
# $m_t / \sqrt{v_t}$ has no unit: multiply all gradients of a layer by a constant, and it stays.
# The factor $\alpha_t$ stays too where the layer is held against itself, and changes where it is
# held against others. Clipping at 1.0 has a unit, and with it the result depends on the scale of
# the loss.


# %%
def changes(**options):
    """How much directions change if all gradients, or one layer's, are 8 times as large."""
    gradients = 0.1 * jax.random.normal(jax.random.key(1), (2, 50, 8))  # norms of about 0.3

    def run(scales):
        scaled = [scale * g for scale, g in zip(scales, gradients, strict=True)]
        return jnp.stack(directions(scaled, eps=0.0, **options)[0])

    scales = jnp.array([(1.0, 1.0), (8.0, 8.0), (8.0, 1.0)])
    plain, everywhere, one = jax.jit(jax.vmap(run))(scales)
    size = jnp.linalg.norm(plain)
    return [float(jnp.linalg.norm(found - plain) / size) for found in (everywhere, one)]


variants = {name: {"reference": name, "layer_clip": None} for name in references}
variants["ema, clip at 1.0"] = {"layer_clip": 1.0}
variants["ema, clip at 2 x reference"] = {"layer_clip": ClipToReference(2.0)}
print(f"{'changes if 8 times as large are':32} all layers  one layer")
for name, options in variants.items():
    everywhere, one = changes(scale_bounds=None, **options)
    print(f"{name:32} {everywhere:10.1%} {one:10.1%}")
    assert (everywhere < 1e-3) == (name != "ema, clip at 1.0")
    assert (one < 1e-3) == (name in ("ema", "running_mean", "ema, clip at 2 x reference"))

# %% [markdown]
# (spike)=
# ## A spike
#
# A layer's gradient is 1 for a long time, and once it is $k$. The reference contains the spike
# itself, so with the decay $d = 0.99$ of its average
#
# $$\alpha = \frac{k}{d + (1 - d) k} < \frac{1}{1 - d} = 100$$
#
# even without bounds. The factor multiplies Adam's step at just this moment: what it does to a
# spike is to *lengthen* it.


# %%
def spiked(k, **options):
    """The directions around a spike, and the factor at it."""
    gradients = jnp.ones((1100, 1)).at[1000].set(k)
    direction, states = directions(gradients, bias_correction=True, **options)
    return direction[990:1060, 0], states.alpha[1000, 0]


sizes = jnp.array([3.0, 10.0, 100.0, 1e4])
_, measured = jax.vmap(lambda k: spiked(k, layer_clip=None, scale_bounds=None))(sizes)
np.testing.assert_allclose(measured, sizes / (0.99 + 0.01 * sizes), rtol=1e-2)

variants = {
    "no α (Adam)": {"layer_clip": None, "scale_bounds": (1.0, 1.0 + 1e-6)},
    "α, no bounds": {"layer_clip": None, "scale_bounds": None},
    "α up to 10": {"layer_clip": None},
    "α, clip at 2 x reference": {"layer_clip": ClipToReference(2.0)},
    "α, clip at 1.0": {},
}
figure, axes = plt.subplots(figsize=(7.2, 2.8))
for (name, options), style in zip(variants.items(), ("-", "--", "-.", ":", "-"), strict=True):
    direction, _ = spiked(100.0, **options)
    axes.semilogy(np.arange(-10, 60), direction, style, label=f"{name}: {direction[10]:.1f}")
axes.set(title="Steps around a gradient 100 times as large", xlabel="steps since the spike")
axes.set_ylabel("length, usual = 1")
axes.legend(title="step at the spike")
plt.show()

# %% [markdown]
# Adam alone answers with a step of 2.7. With $\alpha_t$ it is ten times that, and without bounds
# fifty times; then steps are shorter than Adam's, because the raised reference takes its time to
# fall. It is the clip by layer that makes the factor safe: relative to the reference it leaves a
# step of 2.2, and at 1.0, this layer's own usual norm, nothing at all. So keep a clip wherever you
# use $\alpha_t$.
#
# ## What to change next
#
# - `readings=StratoptReadings(reference_decay=0.9)` in the run above: does α get calmer or wilder,
#   and why?
# - `StratoptReadings(stratum="type")` or `"block"`: fewer factors, less noise in each.
# - The spike with `StratoptReadings(centred=True)`, or with `b2=0.98`.
