"""The learning rate schedule that both papers' experiments need and neither prints."""

import optax

from optax_strat import _checks


def warmup_cosine(
    peak: float, steps: int, *, warmup_steps: int | None = None, final_fraction: float = 0.1
) -> optax.Schedule:
    """A linear warm-up, then half a cosine: "Warmup schedule for stable initialization".

    StratOpt corrects no bias (section 3.1 of its paper), so its first steps are several times too
    long, and the warm-up (section 3.2) carries it over them.

    Args:
      peak: the highest learning rate, above 0.
      steps: all steps, the warm-up included.
      warmup_steps: steps from zero to the peak; None means a tenth of all, 2000 at most.
      final_fraction: the share of the peak that is left at the end, in [0, 1].

    Returns:
      A schedule from step number to learning rate.

    Raises:
      ValueError: a number lies outside its range, or the warm-up leaves no step to decay.

    Examples:
      >>> from optax_strat import warmup_cosine
      >>> schedule = warmup_cosine(0.01, steps=100)
      >>> [round(float(schedule(step)), 4) for step in (0, 5, 10, 55, 100)]
      [0.0, 0.005, 0.01, 0.0055, 0.001]
    """
    _checks.check_positive("peak", peak)
    _checks.check_count("steps", steps)
    _checks.check_not_negative("final_fraction", final_fraction)
    if final_fraction > 1:
        raise ValueError(f"final_fraction must lie in [0, 1], but it is {final_fraction!r}.")
    if warmup_steps is None:
        warmup_steps = min(steps // 10, 2000)
    _checks.check_not_negative("warmup_steps", warmup_steps)
    if warmup_steps >= steps:
        raise ValueError(f"warmup_steps must be below steps = {steps}, but it is {warmup_steps}.")
    return optax.warmup_cosine_decay_schedule(
        0.0, peak, warmup_steps, steps, end_value=final_fraction * peak
    )
