"""The one table of optimizers: a configuration in, an Optax transformation and its schedule out.

Everything that is equal for all methods is said once, here: the learning-rate schedule, the global
clip, decay of matrices only, and a guard that lets no non-finite step into the state. What a
method brings itself (our optimizers' guard, StratOpt's and Adafactor's clip) is not added twice.
"""

from __future__ import annotations

from typing import NamedTuple

import optax
from optax import contrib

import optax_strat
from train.config.run import ScheduleConfig
from train.optimizers.schedules import learning_rate_schedule, slow_decay_warmup
from train.optimizers.settings import (
    LAMB,
    Aardvark,
    Adafactor,
    AdamW,
    AdEMAMix,
    Lion,
    Muon,
    OptimizerConfig,
    StratOpt,
)
from train.step.auto_sharding import inferred_update


class Optimizer(NamedTuple):
    """What the train step and the records need to know of an optimizer."""

    transformation: optax.GradientTransformationExtraArgs
    schedule: optax.Schedule
    """Learning rate at a step; a schedule's step is the number of updates made before it."""


def build_optimizer(config: OptimizerConfig, schedule: ScheduleConfig, steps: int) -> Optimizer:
    """Builds the transformation that a run of `steps` steps uses.

    Args:
      config: One of the dataclasses of `train.optimizers.settings`.
      schedule: Warm-up and decay of the learning rate.
      steps: Length of the run; AdEMAMix's warm-ups and the decay end there.

    Returns:
      The transformation, guarded against non-finite gradients, and its schedule.
    """
    rate = learning_rate_schedule(config.learning_rate, schedule, steps)
    transformation = _transformation(config, rate, steps)
    # Replicated rows and columns of state are ambiguous to JAX's types.
    match config:
        case Adafactor() | StratOpt(second_moment="factored") | Aardvark(second_moment="factored"):
            transformation = inferred_update(transformation)
    if not isinstance(config, StratOpt | Aardvark):
        transformation = optax_strat.skip_nonfinite(transformation)
    return Optimizer(transformation, rate)


def _transformation(
    config: OptimizerConfig, rate: optax.Schedule, steps: int
) -> optax.GradientTransformation:
    mask = optax_strat.decays
    match config:
        case AdamW():
            inner = optax.adamw(
                rate, config.b1, config.b2, config.eps, weight_decay=config.weight_decay, mask=mask
            )
        case AdEMAMix():
            inner = contrib.ademamix(
                rate,
                config.b1,
                config.b2,
                b3=slow_decay_warmup(config.b1, config.b3, steps),
                alpha=optax.linear_schedule(0.0, config.alpha, steps),
                eps=config.eps,
                weight_decay=config.weight_decay,
                mask=mask,
            )
        case Lion():
            inner = optax.lion(
                rate, config.b1, config.b2, weight_decay=config.weight_decay, mask=mask
            )
        case LAMB():
            # optax.lamb, its trust ratio taken per layer and not per stack of layers.
            inner = optax.chain(
                optax.scale_by_adam(config.b1, config.b2, config.eps),
                optax.add_decayed_weights(config.weight_decay, mask),
                optax_strat.per_layer(optax.scale_by_trust_ratio()),
                optax.scale_by_learning_rate(rate),
            )
        case Adafactor():
            adafactor = optax.adafactor(
                rate,
                config.min_dim_size_to_factor,
                config.decay_rate,
                clipping_threshold=config.clipping_threshold,
                momentum=config.momentum,
            )
            decay = optax.add_decayed_weights(
                lambda count: -config.weight_decay * rate(count), mask
            )
            return optax.chain(optax_strat.per_layer(adafactor), decay)
        case Muon():
            muon = optax_strat.scale_by_muon(
                config.beta, config.ns_steps, config.eps, rms=config.consistent_rms
            )
            adam = optax.scale_by_adam(
                config.adam_b1, config.adam_b2, config.eps, nesterov=config.adam_nesterov
            )
            others = tuple(kind for kind in optax_strat.LayerType if kind not in config.strata)
            return optax_strat.stratify(
                ({config.strata: muon} if config.strata else {}) | {others: adam},
                learning_rate=rate,
                clip=config.clip,
                weight_decay=config.weight_decay,
            )
        case StratOpt():
            return optax_strat.stratopt(
                rate,
                config.b1,
                config.b2,
                config.eps,
                reference=config.reference,
                scale_bounds=config.scale_bounds,
                bias_correction=config.bias_correction,
                layer_clip=config.layer_clip,
                weight_decay=config.weight_decay,
                nonfinite=config.nonfinite,
                mu_dtype=config.mu_dtype,
                second_moment=config.second_moment,
                readings=optax_strat.StratoptReadings(
                    reference_decay=config.reference_decay,
                    gradient_mixing=config.gradient_mixing,
                    momentum_adjustment=config.momentum_adjustment,
                    centred=config.centred,
                    stratum=config.stratum,
                ),
            )
        case Aardvark():
            return optax_strat.aardvark(
                rate,
                config.b1,
                config.b2,
                config.eps,
                multipliers=_multipliers(config),
                scaling=config.scaling,
                clip=config.clip,
                clip_mode=config.clip_mode,
                nonfinite=config.nonfinite,
                weight_decay=config.weight_decay,
                decay_rate=config.decay_rate,
                mu_dtype=config.mu_dtype,
                second_moment=config.second_moment,
            )
    if config.clip is None:
        return inner
    return optax.chain(optax.clip_by_global_norm(config.clip), inner)


def _multipliers(config: Aardvark) -> dict[str, float] | None:
    if config.scaling == "adaptive":  # It measures its own.
        return None
    return {name: getattr(config, name) for name in ("embedding", "attention", "mlp", "head")}
