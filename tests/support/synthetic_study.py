"""A study made of formulas: AdamW follows a power of the tokens, and the others a multiple of it.

The papers' order holds at 3e-4 by construction, and when tuned it is turned round but for Lion.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np

from tests.support.synthetic_comparison import BATCH, CONTEXT, final_record, run_record
from train.records.lines import DataSummary, ModelSummary, RecordWriter

FLOOR, SCALE, EXPONENT = 1.4, 0.9, 0.45
UNIT = 400 * BATCH * CONTEXT
# What a token is worth in AdamW's, when tuned.
WORTH = {
    "AdamW": 1.0,
    "AdEMAMix": 1.15,
    "Lion": 0.7,
    "Muon": 1.4,
    "StratOpt": 1.1,
    "Aardvark": 1.05,
}
AT_3E4 = dict(zip(WORTH, (3.0, 3.4, 3.7, 2.8, 3.2, 3.1), strict=True))
BEST_RATES = dict(zip(WORTH, (3e-3, 1e-3, 1e-3, 3e-2, 1e-3, 3e-3), strict=True))
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1)
WEBMIX = DataSummary(
    source="jsonl:texts/webmix/*.jsonl",
    tokenizer="bytes",
    fingerprint="1f3870be274f6c49b3e31a0c6728957f",
    bytes_per_token=1.0,
    train_tokens=9_000_000,
)
MICRO = ModelSummary(name="4 x 256", parameters=3_400_000, flops_per_token=2.1e7)


def tuned_loss(optimizer: str, tokens: float) -> float:
    return FLOOR + SCALE * (WORTH[optimizer] * tokens / UNIT) ** -EXPONENT


def final_losses(
    loss_of: Callable[[str], float], seeds: Iterable[int], part: int, sd: float = 0.006
) -> dict[tuple[str, int], float]:
    """Each optimizer's loss by seed: what the seed does to all, and a little of its own."""
    found = {}
    for seed in seeds:
        rng = np.random.default_rng([part, seed])
        shared = rng.normal(0, 0.02)
        for optimizer in WORTH:
            found[optimizer, seed] = loss_of(optimizer) + shared + rng.normal(0, sd)
    return found


def write_part(
    path: Path,
    losses: Mapping[tuple[str, int], float],
    rate_of: Callable[[str], float] = BEST_RATES.__getitem__,
    **changes,
) -> Path:
    """A file of many runs; a loss that is not finite is a run that diverged."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with RecordWriter(path) as writer:
        for (title, seed), loss in losses.items():
            optimizer, _, rate = title.partition(" at ")
            rate = float(rate) if rate else rate_of(optimizer)
            settings = {"kind": optimizer, "learning_rate": rate, "weight_decay": 0.1}
            record = run_record(
                title.lower().replace(" ", "-"), seed, title=title, learning_rate=rate,
                config={"kind": "RunConfig", "optimizer": settings}, **changes,
            )  # fmt: skip
            writer.write(record)
            writer.write(final_record(record, loss, diverged=not math.isfinite(loss)))
    return path


def write_budgets(folder: Path, steps: Iterable[int] = (100, 200, 400, 800), seeds: int = 5):
    """The tuned comparisons over token budgets."""
    for budget in steps:
        tokens = budget * BATCH * CONTEXT
        losses = final_losses(lambda name, n=tokens: tuned_loss(name, n), range(seeds), budget)
        write_part(folder / f"tokens-{budget}.jsonl", losses, steps=budget)


def write_papers_rate(folder: Path, seeds: int = 5) -> Path:
    losses = final_losses(AT_3E4.__getitem__, range(seeds), 1)
    return write_part(folder / "papers-rate.jsonl", losses, lambda _: 3e-4, steps=400)


def u_curve(optimizer: str, rate: float) -> float:
    """The U in the logarithm of the rate; far to the right, the run diverges."""
    away = math.log10(rate / BEST_RATES[optimizer])
    return math.nan if away > 1.9 else tuned_loss(optimizer, UNIT) + 0.6 * away**2


def write_rates(folder: Path, rates: Iterable[float] = RATES, seeds: int = 2) -> Path:
    losses = {
        (f"{optimizer} at {rate:.0e}", seed): u_curve(optimizer, rate) + 0.01 * seed
        for optimizer in WORTH
        for rate in rates
        for seed in range(seeds)
    }
    return write_part(folder / "rates.jsonl", losses, steps=400)


def write_study(folder: Path) -> Path:
    """Everything that a study has."""
    write_budgets(folder)
    write_papers_rate(folder)
    write_rates(folder)
    tokens = 400 * BATCH * CONTEXT
    losses = final_losses(lambda name: 0.3 + tuned_loss(name, tokens), range(5), 2)
    write_part(folder / "webmix.jsonl", losses, steps=400, data=WEBMIX)
    losses = final_losses(
        lambda name: tuned_loss(name, tokens) - 0.2 - 0.2 * (name == "Aardvark"), range(5), 3
    )
    write_part(folder / "micro.jsonl", losses, steps=400, model=MICRO)
    return folder
