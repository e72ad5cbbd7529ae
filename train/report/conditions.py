"""Which runs may stand in one table: same data, same model, same tokens, one run a seed."""

from collections import Counter
from collections.abc import Callable, Sequence

from train import units
from train.records import RunRecord

# What all runs of a table must share, in the words of the message.
_SHARED: dict[str, Callable[[RunRecord], str]] = {
    "data": lambda run: f"{run.data.source} as {run.data.tokenizer} ({run.data.fingerprint:.12})",
    "model": lambda run: f"{run.model.name} with {run.model.parameters} parameters",
    "tokens": lambda run: f"{run.steps} steps x {run.batch_size} x {run.context} tokens",
}


def check_conditions(runs: Sequence[RunRecord], *, allow_mixed: bool) -> None:
    """Refuses runs that a table must not average or rank together.

    Args:
        runs: the runs of one table.
        allow_mixed: the user asked for a table over different conditions. Two runs of one
            optimizer and seed are refused even so: the pairing by seed would have no meaning.

    Raises:
        ValueError: naming what differs and two runs that differ in it.
    """
    seeds = Counter((run.optimizer, run.seed) for run in runs)
    for (optimizer, seed), times in seeds.items():
        if times > 1:
            names = [run.name for run in runs if (run.optimizer, run.seed) == (optimizer, seed)]
            raise ValueError(
                f"{units.listing(names)} are both {optimizer} with seed {seed}: "
                "one table takes one run for each optimizer and seed, so report them apart"
            )
    if allow_mixed:
        return
    for what, describe in _SHARED.items():
        _check_equal(what, runs, describe)
    for optimizer in {run.optimizer for run in runs}:
        own = [run for run in runs if run.optimizer == optimizer]
        _check_equal(f"{optimizer}'s learning rate", own, lambda run: f"{run.learning_rate:g}")


def _check_equal(
    what: str, runs: Sequence[RunRecord], describe: Callable[[RunRecord], str]
) -> None:
    first = runs[0]
    for other in runs[1:]:
        if describe(other) != describe(first):
            raise ValueError(
                f"the runs differ in {what}: {describe(first)} in {first.name}, "
                f"{describe(other)} in {other.name}; report them apart, or allow mixed runs"
            )
