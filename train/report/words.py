"""The words around the tables, each computed from the records: facts and cautions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from train.host import units
from train.records.lines import RunRecord
from train.report.comparison import Comparison, Group
from train.report.finding import finding
from train.report.papers import PARAMETERS


@dataclass(frozen=True)
class Summary:
    """What stands around the tables.

    Attributes:
        finding: what was found, in one sentence.
        facts: data, model, tokens, seeds, device, versions and commit, by name.
        cautions: what the numbers do not show.
        unfinished: the runs under way, and how far each has come.
        about: the text of comparison.json, or None.
    """

    finding: str
    facts: dict[str, str]
    cautions: list[str]
    unfinished: list[str]
    about: str | None


def summarize(comparison: Comparison) -> Summary:
    """The words of a comparison's report."""
    return Summary(
        finding=finding(comparison),
        facts=facts_of(comparison),
        cautions=_cautions(comparison),
        unfinished=[
            f"{run.record.name}, step {run.last_step} of {run.record.steps}"
            for group in comparison.groups
            for run in group.unfinished
        ],
        about=comparison.about,
    )


def facts_of(comparison: Comparison) -> dict[str, str]:
    """What the runs have in common, by name; where they differ, all kinds of it."""
    runs = [run.record for run in comparison.runs]
    return {
        name: "; ".join(dict.fromkeys(describe(run) for run in runs))
        for name, describe in _FACTS.items()
    } | {"Seeds": ", ".join(str(seed) for seed in sorted({run.seed for run in runs}))}


_FACTS: dict[str, Callable[[RunRecord], str]] = {
    "Data": lambda run: (
        f"{run.data.source}, {units.count(run.data.train_tokens)} training tokens "
        f"({run.data.tokenizer}, manifest {run.data.fingerprint:.12})"
    ),
    "Model": lambda run: (
        f"{run.model.name}, {units.count(run.model.parameters)} parameters, "
        f"{units.count(run.model.flops_per_token)} training FLOPs per token"
    ),
    "Tokens": lambda run: (
        f"{units.count(run.tokens)} a run: {run.steps} steps × {run.batch_size} sequences × "
        f"{run.context} tokens"
    ),
    "Seeds": lambda run: str(run.seed),
    "Device": lambda run: f"{run.device_count} × {run.device}",
    "Versions": lambda run: ", ".join(f"{name} {v}" for name, v in sorted(run.versions.items())),
    "Commit": lambda run: run.commit,
}


def _cautions(comparison: Comparison) -> list[str]:
    runs = [run.record for run in comparison.runs]
    small = min(run.model.parameters for run in runs)
    found = [
        f"This tier is {units.count(small)} parameters and "
        f"{units.count(min(run.tokens for run in runs))} tokens on one text: it supports no claim "
        f"about {units.count(PARAMETERS)} parameters, the papers’ size, or any other."
        if small < PARAMETERS
        else "One model size and one text: it supports no claim about any other."
    ]
    if len(comparison.groups) > 1:
        found.append(
            "An optimizer’s runs are all at one learning rate: an order may be an order of rates "
            "as much as of optimizers."
        )
    for group in comparison.groups:
        if group.diverged:
            found.append(_divergence(group))
    return [*found, *differing(runs), *_of_no_commit(runs), *comparison.notices]


def _divergence(group: Group) -> str:
    total = len(group.diverged) + len(group.finished)
    names = ", ".join(f"seed {run.record.seed}" for run in group.diverged)
    told = (
        f"{group.title} diverged in {len(group.diverged)} of {units.plural(total, 'run')} ({names})"
    )
    return f"{told}; its means are over the rest and flatter it." if group.finished else f"{told}."


def _of_no_commit(runs: Sequence[RunRecord]) -> list[str]:
    """Code that nobody can look up."""
    commits = dict.fromkeys(run.commit for run in runs)
    return [
        f"The runs of commit {commit} are of code that is in no commit."
        for commit in commits
        if commit.endswith("+") or commit == "unknown"
    ]


def differing(runs: Sequence[RunRecord]) -> list[str]:
    """Conditions that may differ within a table but change what its numbers mean."""
    found = []
    for name in ("Data", "Model", "Tokens", "Device", "Versions", "Commit"):
        kinds = len({_FACTS[name](run) for run in runs})
        if kinds > 1:
            found.append(f"The runs are of {kinds} different kinds in: {name.lower()}.")
    return found
