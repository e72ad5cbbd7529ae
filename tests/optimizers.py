"""The one table of optimizers that the conformance tests go through, every option in some entry."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from optax_strat import (
    ClipToParameters,
    ClipToReference,
    aardvark,
    clip_by_layer_norm,
    dynamic_loss_scale,
    record_statistics,
    repair_nonfinite,
    scale_by_layer_type,
    scale_by_muon,
    skip_nonfinite,
    stratify,
    stratopt,
)

Factory = Callable[..., optax.GradientTransformationExtraArgs]
TYPES = ("embedding", "attention", "mlp", "head", "norm", "other")


def wrapped(make: Callable[[Any], Any]) -> Factory:
    """A factory like an optimizer's out of a building block around plain SGD."""
    return lambda learning_rate: make(optax.sgd(learning_rate))


def optimizer(factory: Factory, **arguments: Any) -> Factory:
    return functools.partial(factory, **arguments)


TABLE: dict[str, Factory] = {
    "stratopt": stratopt,
    "stratopt, literal": optimizer(stratopt, scale_bounds=None, layer_clip=None, weight_decay=0.0),
    "stratopt, by block": optimizer(
        stratopt,
        stratum="block",
        reference="layer_mean",
        layer_clip=ClipToReference(),
        centred=True,
    ),
    "stratopt, by type": optimizer(
        stratopt, stratum="type", reference="global_ema", layer_clip={"mlp": 0.5}, nonfinite="skip"
    ),
    "stratopt, mixing": optimizer(
        stratopt,
        reference="running_mean",
        gradient_mixing=0.1,
        layer_clip=ClipToParameters(),
        bias_correction=True,
        mu_dtype="bfloat16",
    ),
    "stratopt, low precision": optimizer(
        stratopt,
        momentum_adjustment=0.05,
        bias_correction=True,
        mu_dtype="bfloat16",
        nu_dtype="bfloat16",
        nonfinite="skip",
    ),
    "aardvark": aardvark,
    "aardvark, literal": optimizer(
        aardvark, clip_mode="elementwise", nonfinite=None, weight_decay=0.0
    ),
    "aardvark, adaptive": optimizer(
        aardvark, scaling="adaptive", clip_mode="per_tensor", nonfinite="nan_to_num"
    ),
    "aardvark, normalized": optimizer(
        aardvark, scaling="normalized", decay_rate="base", mu_dtype="bfloat16"
    ),
    "aardvark, factored": optimizer(aardvark, mu_dtype="bfloat16", factored=True),
    "clip_by_layer_norm": wrapped(lambda sgd: optax.chain(clip_by_layer_norm(1.0), sgd)),
    "scale_by_layer_type": wrapped(lambda sgd: optax.chain(sgd, scale_by_layer_type({"mlp": 2.0}))),
    "skip_nonfinite": wrapped(skip_nonfinite),
    "dynamic_loss_scale": wrapped(lambda sgd: dynamic_loss_scale(sgd, initial=1.0)),
    "repair_nonfinite": wrapped(lambda sgd: optax.chain(repair_nonfinite(), sgd)),
    "record_statistics": wrapped(record_statistics),
    "stratify": wrapped(lambda sgd: stratify({TYPES: optax.chain(optax.scale_by_adam(), sgd)})),
    "stratify, Muon": lambda learning_rate: stratify(
        {
            ("attention", "mlp"): scale_by_muon(),
            ("embedding", "head", "norm", "other"): optax.scale_by_adam(),
        },
        learning_rate=learning_rate,
        clip=1.0,
    ),
}
OPTIMIZERS = [name for name in TABLE if name.startswith(("stratopt", "aardvark"))]


def grads_of(params: Any) -> Any:
    """Some gradients, none of them zero."""
    return jax.tree.map(lambda p: (0.1 * p + 0.01).astype(p.dtype), params)
