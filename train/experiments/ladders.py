"""Ablation ladders: from AdamW to a method and beyond it, one change at a time.

A rung has AdamW's own rate, betas, epsilon, decay and clip wherever those are not what it changes.
So its difference to the rung that it stands after (`Contestant.after`) is the effect of one thing.
Rungs at settings tuned for themselves would differ in those too: that is what a tuning compares.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import optax_strat
from models import TransformerConfig, parameter_count
from train.config.comparison import Comparison, Contestant
from train.optimizers import Aardvark, AdamW, Muon, OptimizerConfig, StratOpt

LadderName = Literal["aardvark", "stratopt", "muon"]
LADDERS: tuple[LadderName, ...] = get_args(LadderName)

PAPERS_MEAN_MULTIPLIER = 1.34
"""Of the 134-million-parameter reading of the papers' model, `models.PRESETS["paper_wide"]`."""


def climb(name: LadderName, comparison: Comparison) -> Comparison:
    """A ladder's rungs compared on the terms of another comparison, from its AdamW on.

    Args:
      name: The method that the ladder leads to.
      comparison: Its first contestant is AdamW, whose settings all rungs share.

    Raises:
      ValueError: If the first contestant is not AdamW, or has no clip and the ladder takes it away.

    Example:
      >>> from train.config.named import compare
      >>> [rung.title for rung in climb("muon", compare()).contestants][:3]
      ['AdamW', 'Muon on attention', 'Muon on MLPs']
    """
    base = comparison.contestants[0].optimizer
    if not isinstance(base, AdamW):
        raise ValueError(
            f"a ladder cannot start at {type(base).__name__}: AdamW must be the first contestant."
        )
    match name:
        case "aardvark":
            rungs = aardvark_ladder(base, comparison.model)
        case "stratopt":
            rungs = stratopt_ladder(base)
        case "muon":
            rungs = muon_ladder(base)
    return dataclasses.replace(comparison, contestants=rungs)


def aardvark_ladder(base: AdamW, model: TransformerConfig) -> tuple[Contestant, ...]:
    """AdamW, without its clip, with multipliers, Aardvark; its options; AdamW at higher rates.

    Multipliers raise the mean rate, and a higher rate alone may be what helps. AdamW at the mean
    multiplier of the model, and at that of the papers' model, tells; so does `normalized`, which
    divides the multipliers by their mean.
    """
    adamw, unclipped = _start(base)
    multiplied = _rung(
        _as_method(unclipped, as_aardvark),
        "+ multipliers",
        embedding=Aardvark.embedding,
        attention=Aardvark.attention,
        mlp=Aardvark.mlp,
        head=Aardvark.head,
    )
    aardvark = _rung(multiplied, "Aardvark (+ clip)", clip=base.clip)
    factors = sorted({round(mean_multiplier(model), 2), PAPERS_MEAN_MULTIPLIER})
    return (
        adamw,
        unclipped,
        multiplied,
        aardvark,
        _rung(aardvark, "Multipliers, mean 1", scaling="normalized"),
        _rung(aardvark, "Adaptive multipliers", scaling="adaptive"),
        _rung(aardvark, "Decay at base rate", decay_rate="base"),
        _rung(aardvark, "Clip per tensor", clip_mode="per_tensor"),
        _rung(aardvark, "Clip by element", clip_mode="elementwise"),
        *(
            _rung(adamw, f"AdamW, {factor} x rate", learning_rate=factor * base.learning_rate)
            for factor in factors
        ),
    )


def stratopt_ladder(base: AdamW) -> tuple[Contestant, ...]:
    """AdamW, without its clip, without bias correction, with alpha, StratOpt; its options."""
    adamw, unclipped = _start(base)
    uncorrected = _rung(
        _as_method(unclipped, as_stratopt), "No bias correction", bias_correction=False
    )
    scaled = _rung(uncorrected, "+ alpha (ema)", scale_bounds=StratOpt.scale_bounds)
    stratopt = _rung(scaled, "StratOpt (+ clip)", layer_clip=StratOpt.layer_clip)
    return (
        adamw,
        unclipped,
        uncorrected,
        scaled,
        _rung(scaled, "Alpha, layer mean", reference="layer_mean"),
        _rung(scaled, "Alpha, running mean", reference="running_mean"),
        _rung(scaled, "Alpha, global ema", reference="global_ema"),
        stratopt,
        _rung(stratopt, "Bias correction", bias_correction=True),
        _rung(stratopt, "Unbounded alpha", scale_bounds=None),
        _rung(stratopt, "Alpha by block", stratum="block"),
        _rung(stratopt, "Alpha by type", stratum="type"),
        _rung(stratopt, "Gradient mixing", gradient_mixing=0.5),
        # From b1 - δ to b1 + δ: at 0.9, an average over 7 to 20 steps.
        _rung(stratopt, "Momentum adjustment", momentum_adjustment=(1 - base.b1) / 2),
        _rung(stratopt, "Centred variance", centred=True),
    )


def muon_ladder(base: AdamW) -> tuple[Contestant, ...]:
    """AdamW, then Muon on the matrices of attention, of MLPs, of both; then as Optax has it.

    Optax's Muon gives Nesterov's momentum to the parameters that it leaves to AdamW, too.
    """
    adamw = Contestant(base)
    nowhere = _as_method(adamw, as_muon)
    attention = _rung(nowhere, "Muon on attention", strata=("attention",))
    mlps = _rung(nowhere, "Muon on MLPs", strata=("mlp",))
    both = _rung(attention, "Muon on both", strata=("attention", "mlp"))
    whole = _rung(both, "Muon (+ Nesterov)", adam_nesterov=True)
    return adamw, attention, mlps, both, whole


def mean_multiplier(model: TransformerConfig) -> float:
    """The mean of Aardvark's multipliers over a model's parameters.

    Example:
      >>> from models import PRESETS
      >>> round(mean_multiplier(PRESETS["nano"]), 3), round(mean_multiplier(PRESETS["micro"]), 3)
      (1.322, 1.3)
    """
    count = parameter_count(model)
    weighted = (optax_strat.MULTIPLIERS[kind] * n for kind, n in count._asdict().items())
    return sum(weighted) / count.total


def as_aardvark(adamw: AdamW) -> Aardvark:
    """The Aardvark that is this AdamW: all multipliers are 1."""
    return Aardvark(
        embedding=1.0, attention=1.0, mlp=1.0, head=1.0, clip=adamw.clip, **_shared(adamw)
    )


def as_stratopt(adamw: AdamW) -> StratOpt:
    """The StratOpt that is this AdamW, but for the clip: StratOpt has none of all layers."""
    return StratOpt(
        scale_bounds=(1.0, 1.0), bias_correction=True, layer_clip=None, **_shared(adamw)
    )


def as_muon(adamw: AdamW) -> Muon:
    """The Muon that is this AdamW: it orthogonalizes nothing."""
    shared = _shared(adamw)
    b1, b2 = shared.pop("b1"), shared.pop("b2")
    return Muon(strata=(), adam_b1=b1, adam_b2=b2, adam_nesterov=False, clip=adamw.clip, **shared)


def _shared(adamw: AdamW) -> dict[str, Any]:
    """What all methods with Adam's moments have: rate, betas, epsilon and decay."""
    return {field: value for field, value in vars(adamw).items() if field != "clip"}


def _start(base: AdamW) -> tuple[Contestant, Contestant]:
    if base.clip is None:
        raise ValueError(
            "clip=None is not allowed: the ladder takes AdamW's clip away, so give it one to "
            "begin with, such as 1.0."
        )
    adamw = Contestant(base)
    return adamw, _rung(adamw, "AdamW, no clip", clip=None)


def _as_method(rung: Contestant, convert: Callable[[AdamW], OptimizerConfig]) -> Contestant:
    """The same rung in the words of the method that the ladder leads to."""
    assert isinstance(rung.optimizer, AdamW)
    return dataclasses.replace(rung, optimizer=convert(rung.optimizer))


def _rung(before: Contestant, title: str, **changes: Any) -> Contestant:
    return Contestant(dataclasses.replace(before.optimizer, **changes), title, after=before.name)
