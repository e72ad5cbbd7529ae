"""Which runs may stand in one table: same data, model, tokens and commit, one run a seed."""

from collections.abc import Callable, Sequence

from train.host import units
from train.records.lines import RunRecord
from train.report.runs import Run

# What all runs of a table must share, in the words of the message. A commit with `+` (files
# differed from it) is not the one without: their runs are of different code, as far as one can say.
_SHARED: dict[str, Callable[[RunRecord], str]] = {
    "data": lambda run: f"{run.data.source} as {run.data.tokenizer} ({run.data.fingerprint:.12})",
    "model": lambda run: f"{run.model.name} with {run.model.parameters} parameters",
    "tokens": lambda run: f"{run.steps} steps x {run.batch_size} x {run.context} tokens",
    "commit": lambda run: run.commit,
}
# What the runs of one optimizer must share.
_OWN: dict[str, Callable[[RunRecord], str]] = {
    "learning rate": lambda run: f"{run.learning_rate:g}",
    "settings": lambda run: ", ".join(
        f"{name} {value}" for name, value in run.config.get("optimizer", {}).items()
    ),
}


def check_conditions(runs: Sequence[Run], *, allow_mixed: bool) -> None:
    """Refuses runs that a table must not average or rank together.

    Devices and versions may differ: the report says so.

    Args:
        runs: the runs of one table.
        allow_mixed: the user asked for a table over different conditions. Two runs of one
            optimizer and seed are refused even so: the pairing by seed would have no meaning.

    Raises:
        ValueError: naming what differs and two runs that differ in it.
    """
    seeds: dict[tuple[str, int], list[str]] = {}
    for run in runs:
        named = f"{run.record.name} ({run.where})"
        seeds.setdefault((run.record.optimizer, run.record.seed), []).append(named)
    for (optimizer, seed), names in seeds.items():
        if len(names) > 1:
            raise ValueError(
                f"{units.listing(names)} are both {optimizer} with seed {seed}: "
                "one table takes one run for each optimizer and seed, so report them apart"
            )
    if allow_mixed:
        return
    records = [run.record for run in runs]
    for what, describe in _SHARED.items():
        _check_equal(what, records, describe)
    for optimizer in dict.fromkeys(record.optimizer for record in records):
        own = [record for record in records if record.optimizer == optimizer]
        for what, describe in _OWN.items():
            _check_equal(f"{optimizer}'s {what}", own, describe)


def _check_equal(
    what: str, runs: Sequence[RunRecord], describe: Callable[[RunRecord], str]
) -> None:
    first = runs[0]
    for other in runs[1:]:
        if describe(other) != describe(first):
            raise ValueError(
                f"the runs differ in {what}: {describe(first)} in {first.name}, {describe(other)} "
                f"in {other.name}; report them apart, or allow mixed runs (--allow-mixed)"
            )
