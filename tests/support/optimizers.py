"""The one table of optimizers that the conformance tests go through, every option in some entry."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from optax_strat import (
    ClipToParameters,
    ClipToReference,
    Group,
    ScaleByAardvarkState,
    ScaleByStratoptState,
    StratoptReadings,
    aardvark,
    clip_by_layer_norm,
    dynamic_loss_scale,
    find_states,
    record_statistics,
    repair_nonfinite,
    scale_by_layer_type,
    scale_by_muon,
    skip_nonfinite,
    stratify,
    stratopt,
)

Factory = Callable[..., optax.GradientTransformationExtraArgs]
TYPES = ("embedding", "attention", "mlp", "head", "norm", "bias", "other")


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
        reference="layer_mean",
        layer_clip=ClipToReference(),
        readings=StratoptReadings(stratum="block", centred=True),
    ),
    "stratopt, by type": optimizer(
        stratopt,
        reference="global_ema",
        layer_clip={"mlp": 0.5},
        nonfinite="skip",
        readings=StratoptReadings(stratum="type"),
    ),
    "stratopt, mixing": optimizer(
        stratopt,
        reference="running_mean",
        layer_clip=ClipToParameters(),
        bias_correction=True,
        mu_dtype="bfloat16",
        readings=StratoptReadings(gradient_mixing=0.1),
    ),
    "stratopt, low precision": optimizer(
        stratopt,
        bias_correction=True,
        mu_dtype="bfloat16",
        second_moment="bfloat16",
        nonfinite="skip",
        readings=StratoptReadings(momentum_adjustment=0.05),
    ),
    "stratopt, without a first moment": optimizer(
        stratopt, b1=0.0, second_moment="factored", scale_bounds=(0.5, 2.0), eps_root=1e-12
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
    "aardvark, factored": optimizer(aardvark, mu_dtype="bfloat16", second_moment="factored"),
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
            ("embedding", "head", "norm", "bias", "other"): optax.scale_by_adam(),
        },
        learning_rate=learning_rate,
        clip=1.0,
    ),
    "stratify, groups": lambda learning_rate: stratify(
        {
            "embedding": Group(frozen=True),
            ("attention", "mlp"): Group(optax.scale_by_sign(), rate=2.0),
            ".*": 1.0,
        },
        learning_rate=learning_rate,
        clip=1.0,
        cautious=True,
    ),
}


def keeps_half_mu(tx: optax.GradientTransformation) -> bool:
    """Whether first moments are in bfloat16, which holds no imaginary part."""
    state = jax.eval_shape(tx.init, jnp.ones(2))
    kinds = (ScaleByStratoptState, ScaleByAardvarkState)
    moments = [inner.mu for kind in kinds for inner in find_states(state, kind)]
    return any(x.dtype == jnp.bfloat16 for x in jax.tree.leaves(moments))


OPTIMIZERS = [name for name in TABLE if name.startswith(("stratopt", "aardvark"))]
CORE = (
    "stratopt",
    "stratopt, low precision",
    "aardvark",
    "aardvark, adaptive",
    "clip_by_layer_norm",
    "skip_nonfinite",
    "record_statistics",
    "stratify, Muon",
)
"""Of the table, what stands for the rest where all of it takes long."""
COMPLEX = [
    name
    for name in OPTIMIZERS
    if name != "aardvark, literal" and not keeps_half_mu(TABLE[name](1e-2))
]
"""All that can have complex parameters: clipping entry by entry needs an order, and a first moment
in bfloat16 has no imaginary part."""


def grads_of(params: Any) -> Any:
    """Some gradients, none of them zero."""
    return jax.tree.map(lambda p: (0.1 * p + 0.01).astype(p.dtype), params)
