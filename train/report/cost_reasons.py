"""Why an optimizer moves time and memory, or does not: sentences made of what was measured."""

from __future__ import annotations

from train.cost_kinds import Ratio
from train.host import units
from train.report.cost_sheet import Entry

FLOAT32 = 4
_WORDS = {1: "one", 2: "two", 3: "three"}
_NOTABLE = 0.001
"""The least part of a peak that is worth a word."""


def time_reason(entry: Entry, base: Entry) -> str:
    """What an update's time does to the step's, and whether that shows.

    Args:
      entry: An optimizer.
      base: The baseline, timed in turn with it.
    """
    share = base.update.share.median
    if entry is base:
        return (
            f"The update is {share:.1%} of the step: one twice as slow would make the step "
            f"{share:.1%} longer. A second copy beside the first: {_show(base.control)}."
        )
    due = 1 + entry.update.share.median - share
    return (
        f"The update takes {entry.update.ratio.median:.2f} times {base.title}’s, which is "
        f"{share:.1%} of the step: that makes {due:.2f}. Measured: {_show(entry.step)}, "
        f"{_against_noise(entry.step, base)}."
    )


def memory_reason(entry: Entry, base: Entry, parameters: int) -> str:
    """What a state's size does to the peak, and what else moves it.

    Args:
      entry: An optimizer.
      base: The baseline.
      parameters: Of the model.
    """
    own = entry.record.state_bytes_per_parameter
    theirs = base.record.state_bytes_per_parameter
    if entry is base:
        share = own * parameters / base.peak_bytes
        return (
            f"The state, {_digits(own)} B a parameter, is {share:.1%} of the peak: to keep none "
            "would save no more. Parameters, gradients and activations are the rest."
        )
    more, peak = (own - theirs) * parameters, entry.peak_bytes - base.peak_bytes
    if alike(own, theirs):
        state = f"Keeps as much state as {base.title}, {_digits(own)} B a parameter."
    else:
        state = (
            f"Keeps {_digits(own)} B of state a parameter, {base.title} {_digits(theirs)}: "
            f"{_numbers(own - theirs)}, {signed_size(more)}."
        )
    size, rest = units.size(base.peak_bytes), peak - more
    notable = _NOTABLE * base.peak_bytes
    if max(abs(peak), abs(rest)) < notable:
        return f"{state} The peak stays at {size}."
    percent = units.number(100 * peak / base.peak_bytes, 1, sign=True)
    moved = f"{state} The peak of {size} moves by {percent}%"
    if abs(rest) < notable:
        return f"{moved}, by nothing else."
    return f"{moved}: {signed_size(rest)} comes from the update’s temporaries."


def alike(own: float, theirs: float) -> bool:
    """Whether two states are of a size, but for numbers kept once a layer."""
    return abs(own - theirs) < 0.02 * FLOAT32


def signed_size(value: float) -> str:
    """Bytes with their sign: ``+534 kB``."""
    return f"{'−' if value < 0 else '+'}{units.size(abs(value))}"


def _numbers(more: float) -> str:
    """A difference of bytes a parameter, in numbers of float32 where it is that."""
    which = "more" if more > 0 else "less"
    whole = round(abs(more) / FLOAT32)
    if whole in _WORDS and alike(abs(more), FLOAT32 * whole):
        return f"{_WORDS[whole]} float32 number{'s' if whole > 1 else ''} {which}"
    return f"{_digits(abs(more))} B {which}"


def _against_noise(step: Ratio, base: Entry) -> str:
    again = f"{base.title}’s second copy"
    if step.low > base.control.high:
        return f"above {again}"
    if step.high < base.control.low:
        return f"below {again}"
    return f"not told apart from {again}"


def _show(ratio: Ratio) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _digits(value: float) -> str:
    return f"{value:.2f}".removesuffix(".00")
