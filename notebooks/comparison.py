# %% [markdown]
# # From records to conclusions
#
# You will run a small comparison of three optimizers, read its records yourself, and get from
# single runs to a statement with an interval. You will see why runs are paired by seed, and what
# the report makes of the same folder.

# %%
import dataclasses
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from rich.console import Console

from train.cli.progress import RunDisplay
from train.config.named import compare_quick
from train.experiments.compare import compare
from train.records.lines import FinalRecord, RunRecord, read_records
from train.report.comparison_report import report
from train.report.statistics import estimate, paired_difference

# %% [markdown]
# ## Run it
#
# On the command line this is `python -m train compare --quick --only stratopt aardvark` and a flag
# for each other line below. The baseline, AdamW, always takes part. Within a seed all three have
# the same initial parameters and the same batches in the same order.

# %%
quick = compare_quick()
names = ("adamw", "stratopt", "aardvark")
comparison = dataclasses.replace(
    quick,
    contestants=tuple(one for one in quick.contestants if one.name in names),
    batch_size=8,
    context=64,
    seeds=5,
    eval_batches=32,
    cost_rounds=0,
)
folder = Path(tempfile.mkdtemp())
compare(comparison, folder, RunDisplay(Console(quiet=True), total_steps=1))
print(*sorted(path.name for path in (folder / "runs").iterdir()))

# %% [markdown]
# ## Read it
#
# A run is one file of JSON lines: a `run` line that says all that its numbers depend on, then
# `step` and `eval` lines, then one `final` line.

# %%
runs = [read_records(path) for path in sorted(folder.glob("runs/*/records.jsonl"))]
about = next(record for record in runs[0] if isinstance(record, RunRecord))
print(f"{about.model.parameters:,} parameters, {about.tokens:,} tokens of {about.data.source}")

losses = {}
for records in runs:
    about = next(record for record in records if isinstance(record, RunRecord))
    final = next(record for record in records if isinstance(record, FinalRecord))
    losses.setdefault(about.title, {})[about.seed] = final.val_loss

# %% [markdown]
# ## One number an optimizer
#
# A mean over seeds, with a Student-t interval: if the runs were made again with other seeds, such
# intervals would hold the true mean 95 times of 100.

# %%
print("validation loss, nats per byte")
for title, by_seed in losses.items():
    loss = estimate(list(by_seed.values()))
    print(f"{title:10} {loss.mean:.3f} ± {loss.half_width:.3f}  (n = {loss.n}, sd {loss.sd:.3f})")

# %% [markdown]
# ## Pairs
#
# Intervals that overlap do not say that there is no difference. What a seed does (an easy batch
# order, lucky initial parameters) it does to all optimizers, and in the difference within a seed
# it cancels.

# %%
figure, (points, widths) = plt.subplots(1, 2, width_ratios=(3, 2), figsize=(7.2, 3))
for seed in range(comparison.seeds):
    points.plot(list(losses), [by_seed[seed] for by_seed in losses.values()], "-o", linewidth=0.8)
points.set(title="Validation loss; a line is a seed", ylabel="nats per byte")
base = losses["AdamW"]
for place, title in enumerate(title for title in losses if title != "AdamW"):
    paired = paired_difference(losses[title], base)
    # As if the runs had nothing in common: the variances of two means add up.
    apart = np.hypot(
        estimate(list(losses[title].values())).half_width, estimate(list(base.values())).half_width
    )
    widths.errorbar(
        place - 0.1, paired.mean, paired.half_width, fmt="o", capsize=4, color="#0072B2"
    )
    widths.errorbar(place + 0.1, paired.mean, apart, fmt="s", capsize=4, color="#D55E00")
    verdict = "excludes" if paired.excludes_zero else "does not exclude"
    interval = f"{paired.mean:+.3f} ± {paired.half_width:.3f}, n = {paired.n}"
    print(f"{title} - AdamW: {interval}; {verdict} zero")
widths.axhline(0, color="#7A7A7A", linewidth=0.8)
widths.set_xticks((0, 1), [title for title in losses if title != "AdamW"])
widths.set(title="Minus AdamW: ● paired, ■ not", xlim=(-0.5, 1.5), ylabel="nats per byte")
plt.show()

# %% [markdown]
# How much pairing narrows an interval depends on how much of the spread is the seed's: lines that
# run side by side gain, lines that cross do not. The pairs cost nothing, so the report always
# takes them.
#
# A difference that excludes zero is still one of 40 steps at the rates of `compare_quick`. It
# says nothing about longer runs, and nothing about tuned ones.
#
# ## The report
#
# All of this is one call, which also draws the figures and writes a page. `tables.jsonl` has the
# same numbers for your own scripts.

# %%
page = report(folder, console=Console(width=96, force_jupyter=False, force_terminal=False))
print(*sorted(path.name for path in page.parent.iterdir()))

# %% [markdown]
# ## What to change next
#
# - `seeds=10`: by how much do the intervals shrink? (Expect the square root of two, and a little
#   more.)
# - `allow_mixed=True` and a second folder with another batch size: why does `report` refuse
#   without?
# - `compare()` in place of `compare_quick()`, and then a rate for each optimizer by
#   `python -m train tune`.
