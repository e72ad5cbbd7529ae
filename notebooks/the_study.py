# %% [markdown]
# # The study as pictures
#
# You will see what the repository's own study found: a U of loss over learning rate for each
# optimizer, the order at one rate for all and at tuned rates, what data is worth, and how far a
# step moves each layer type. All is drawn from the records in `results/study`, by the functions
# that draw a report of your own. The numbers, with n and intervals, are in the tables of the
# {doc}`results </results/index>`.

# %%
from pathlib import Path
from tempfile import mkdtemp

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import HTML

import train
from train.report.study import figures as figures
from train.report.study.parts import read_study
from train.report.study.results import compute

RECORDS = Path(train.__file__).parent.parent / "results" / "study"
FILES = Path(mkdtemp())
results = compute(read_study(RECORDS))


def show(drawing):
    """A figure of the report, its panels side by side as far as there is room."""
    style = "display: grid; gap: 1rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr))"
    return HTML(f'<div style="{style}">{"".join(drawing.panels)}</div>')


# %% [markdown]
# (u-curves)=
# ## Loss against the learning rate
#
# One U for each optimizer, all over the same losses. Look at where the dotted line, the papers'
# 3e-4 for everybody, meets each U: on the left arm, for all eight, and at another height for each.
# An order of losses measured there says as much about how far each optimizer is from its own
# bottom as about the optimizers.

# %%
(curves,) = results.curves_by_conditions
assert all(curve.is_bottom_inside and curve.factor > 1 for curve in curves)
show(figures.rates_figure("rates", curves, results.looks, FILES))

# %% [markdown]
# Every circle is a run, and here each rate has one. Filled: the best rate. A triangle lies above
# the frame. The numbers: {doc}`under other conditions </results/conditions>`.
#
# ## The order at 3e-4, and tuned
#
# The same training twice: at 3e-4 for all, and with the settings that equal budgets of tuning
# found. Follow one optimizer from the left panel to the right.

# %%
contests = [test.contest for test in results.headline]
show(figures.order_figure(contests, results.looks, FILES))

# %% [markdown]
# Dots are means with 95 % intervals, rings are seeds. At 3e-4 the two papers' optimizers lead;
# tuned, they do not, and all losses are lower. The numbers: {doc}`at tuned
# settings </results/tuned>`.
#
# ## What data is worth
#
# Each budget of tokens is a training of its own. The right panel reads off AdamW's curve how many
# tokens AdamW would need for the same loss: an advantage that shrinks to the right is one of short
# runs.

# %%
conditions, scaling = results.scalings[0]
titles, looks = results.titles, results.looks
show(figures.speed_up_figure("worth", scaling, conditions, titles, looks, FILES))

# %% [markdown]
# Hollow marks are extrapolated.
#
# (update-sizes)=
# ## Update size by stratum
#
# How far a step moves each layer type: the norm of its update over the norm of its parameters, as
# a mean over the recorded steps after warm-up and over five seeds, each optimizer tuned.

# %%
TYPES = ("embedding", "attention", "mlp", "head", "norm")
WARMUP = 20  # steps
tuned = contests[-1].comparison
groups = {group.title: group for group in tuned.groups}
shown = {title: groups[title] for title in ("AdamW", "StratOpt", "Aardvark", "Muon")}


def moved(group, kind):
    """Update norm over parameter norm, in percent."""
    steps = [step for run in group.runs for step in run.steps if step.step > WARMUP]
    return 100 * np.mean([step.update_norms[kind] / step.param_norms[kind] for step in steps])


figure, panels = plt.subplots(1, len(shown), sharey=True, sharex=True, figsize=(7.2, 2.2))
for axes, (title, group) in zip(panels, shown.items(), strict=True):
    sizes = [moved(group, kind) for kind in TYPES]
    bars = axes.barh(TYPES, sizes)
    axes.bar_label(bars, fmt="%.2g", padding=3, fontsize=8)
    axes.set(title=title, xlim=(0, 3.4))
    axes.grid(axis="y", visible=False)
panels[0].invert_yaxis()
figure.supxlabel("% of the parameters' norm, each step", fontsize=9)
plt.show()

# %% [markdown]
# AdamW, StratOpt and Aardvark have one profile: the hidden matrices move most, the head less than
# half as far, the scales of norms next to nothing. Aardvark's multipliers bend it a little: its
# head moves 0.47 times as far as its attention, AdamW's 0.33 times. The length of all bars together
# is another matter: it goes with the learning rate that tuning found. Muon, which sets the step of
# a hidden matrix by its shape, moves all types at rates that are closer to each other.
#
# ## What to change next
#
# - `"LAMB"` among those shown: its step is the same share of every layer, by design.
# - `read_study(...)` of a folder that `python -m train study` left on your machine.
# - `step.grad_norms` in place of `step.update_norms`: are large gradients where large steps are?
