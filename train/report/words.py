"""The words around the tables, each computed from the records: facts and cautions.

What a comparison found, in one sentence that claims no more than the tests do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from train.host import units
from train.records.lines import RunRecord
from train.report.comparison import ComparedRuns, Group
from train.report.pairs import LEVEL, Pair, compare_all
from train.report.papers import PARAMETERS


def finding(comparison: ComparedRuns) -> str:
    """Who has the lowest validation loss, and who is not told apart from it."""
    tokens = units.count(max(run.record.tokens for run in comparison.runs))
    finished = [group for group in comparison.groups if group.finished]
    if not finished:
        return (
            f"No run of {tokens} tokens has ended with a usable loss so far: {_states(comparison)}."
        )
    best, *others = finished
    loss = best.val_loss
    assert loss is not None
    n = units.plural(loss.n, "seed")
    value = units.number(loss.mean, 4)
    if loss.half_width is not None:
        value += f"\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}{units.number(loss.half_width, 4)}"
    lead = f"After {tokens} tokens, {best.title} has "
    if not others:
        return f"{lead}a validation loss of {value} (n = {n}){_but_diverged(best)}."
    lead += f"the lowest validation loss, {value} (n = {n}){_but_diverged(best)}"
    standing = _standing(best, others)
    return f"{lead}; {standing}." if standing else f"{lead}."


def _but_diverged(best: Group) -> str:
    # The best has diverged only where all have: they come last.
    lost = len(best.diverged)
    return f", though {lost} of its {lost + len(best.finished)} runs diverged" if lost else ""


def _standing(best: Group, others: list[Group]) -> str:
    """How the others stand to the best, as Table 3 has it."""
    pairs = compare_all([best, *others])
    to_best = {pair.second: pair.reversed for pair in pairs if pair.first == best.key}
    titles: dict[str, list[str]] = {"alike": [], "above": [], "below": [], "unknown": []}
    for group in others:
        if not group.diverged:
            titles[_place(to_best.get(group.key))].append(group.title)
    parts = []
    if alike := titles["alike"]:
        parts.append(f"{units.listing(alike)} {_are(alike)} not told apart from it")
    if above := titles["above"]:
        parts.append(f"{units.listing(above)} {_are(above)} above it")
    if below := titles["below"]:
        parts.append(f"{units.listing(below)} {_are(below)} below it on the seeds in common")
    if parts:
        tests = sum(pair.p is not None for pair in pairs)
        several = f"s, Holm’s correction for {tests} pairs" if tests > 1 else ""
        parts[-1] += f" (at {LEVEL:.0%}, paired t-test{several})"
    if unknown := titles["unknown"]:
        reason = "fewer than two seeds in common"
        parts.append(f"{units.listing(unknown)} cannot be told from it ({reason})")
    return ", ".join(parts)


def _place(pair: Pair | None) -> str:
    """Where an optimizer stands to the best, from its pair with it."""
    if pair is None or pair.p is None:
        return "unknown"
    if not pair.told_apart:
        return "alike"
    # The best mean can lie above another's where not all seeds are finished.
    return "above" if pair.difference.mean > 0 else "below"


def _are(words: list[str]) -> str:
    return "is" if len(words) == 1 else "are"


def _states(comparison: ComparedRuns) -> str:
    diverged = sum(len(group.diverged) for group in comparison.groups)
    unfinished = sum(len(group.unfinished) for group in comparison.groups)
    counts = ((diverged, "diverged"), (unfinished, "under way"))
    return " and ".join(f"{units.plural(n, 'run')} {state}" for n, state in counts if n)


@dataclass(frozen=True)
class Summary:
    """What stands around the tables.

    Attributes:
      finding: What was found, in one sentence.
      facts: Data, model, tokens, seeds, device, versions and commit, by name.
      cautions: What the numbers do not show.
      unfinished: The runs under way, and how far each has come.
      about: The text of comparison.json, or None.
    """

    finding: str
    facts: dict[str, str]
    cautions: list[str]
    unfinished: list[str]
    about: str | None


def summarize(comparison: ComparedRuns) -> Summary:
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


def facts_of(comparison: ComparedRuns) -> dict[str, str]:
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


def _cautions(comparison: ComparedRuns) -> list[str]:
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
