"""What a comparison found, in one sentence that claims no more than the tests do."""

from __future__ import annotations

from train.host import units
from train.report.comparison import Comparison, Group
from train.report.pairs import LEVEL, Pair, compare_all


def finding(comparison: Comparison) -> str:
    """Who has the lowest validation loss, and who is not told apart from it."""
    tokens = units.count(max(run.record.tokens for run in comparison.runs))
    finished = [group for group in comparison.groups if group.finished]
    if not finished:
        return (
            f"No run of {tokens} tokens has ended with a usable loss so far: {_states(comparison)}."
        )
    best, *others = finished
    loss = best.over_seeds(lambda final: final.val_loss)
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


def _states(comparison: Comparison) -> str:
    diverged = sum(len(group.diverged) for group in comparison.groups)
    unfinished = sum(len(group.unfinished) for group in comparison.groups)
    counts = ((diverged, "diverged"), (unfinished, "under way"))
    return " and ".join(f"{units.plural(n, 'run')} {state}" for n, state in counts if n)
