"""Whole optimizers in the place of directions: stratify notices, and is wrong about none."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from jax.sharding import AxisType

from optax_strat import Group, aardvark, scale_by_muon, scale_by_stratopt, stratify, stratopt


def scaled_by(name: str) -> optax.GradientTransformationExtraArgs:
    """A transformation that needs an extra argument."""

    def update(updates: Any, state: Any, params: Any = None, **extra_args: Any) -> Any:
        return jax.tree.map(lambda u: u * extra_args[name], updates), state

    return optax.GradientTransformationExtraArgs(lambda _: (), update)


def takes_no_loss() -> optax.GradientTransformationExtraArgs:
    def update(updates: Any, state: Any, params: Any = None, *, accept: bool = True) -> Any:
        return jax.tree.map(jnp.negative, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: (), update)


WARM_UP = optax.linear_schedule(0.0, 0.1, 1000)
WHOLE: dict[str, Any] = {
    "adamw": lambda: optax.adamw(0.1),
    "a warm-up from zero": lambda: optax.adamw(WARM_UP),
    "much decay": lambda: optax.adamw(0.1, weight_decay=10.0),
    "sgd with momentum": lambda: optax.sgd(0.1, momentum=0.9, nesterov=True),
    "muon": lambda: optax.contrib.muon(0.1),
    "lamb": lambda: optax.lamb(0.1),
    "schedule-free": lambda: optax.contrib.schedule_free_adamw(0.1),
    "accumulated": lambda: optax.MultiSteps(optax.adam(0.1), 4),
    "long accumulated": lambda: optax.MultiSteps(optax.adam(0.1), 8),
    "applied every 8 steps": lambda: optax.chain(optax.adam(0.1), optax.apply_every(8)),
    "10 steps of zero": lambda: optax.sgd(lambda step: jnp.where(step < 10, 0.0, 0.1)),
    "with the loss for its step": lambda: optax.polyak_sgd(),
    "momo": lambda: optax.contrib.momo(0.1),
    "stratopt": lambda: stratopt(0.1),
    "aardvark": lambda: aardvark(0.1),
    "other arguments alone": lambda: takes_no_loss(),
    "a chain": lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_learning_rate(0.1)),
}
DIRECTIONS: dict[str, Any] = {
    "adam": lambda: optax.scale_by_adam(),
    "muon": lambda: scale_by_muon(),
    "stratopt": lambda: scale_by_stratopt(),
    "with decay": lambda: optax.chain(optax.scale_by_lion(), optax.add_decayed_weights(0.1)),
    "scaled": lambda: optax.chain(optax.scale_by_rms(), optax.scale(0.1)),
    "accumulated": lambda: optax.MultiSteps(optax.scale_by_adam(), 4).gradient_transformation(),
    "long accumulated": lambda: optax.MultiSteps(optax.scale_by_adam(), 8),
    "a trust ratio": lambda: optax.chain(optax.scale_by_adam(), optax.scale_by_trust_ratio()),
    "scaled by the loss": lambda: scaled_by("value"),
}


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_optimizer_times_a_learning_rate_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="'mlp' of stratify descends by itself") as error:
        stratify({"mlp": WHOLE[name]()}, learning_rate=1.0)
    assert "optax.scale_by_adam(), or leave out learning_rate." in str(error.value)
    assert "\n" not in str(error.value)
    stratify({"mlp": WHOLE[name]()})


@pytest.mark.parametrize("name", DIRECTIONS)
def test_directions_are_taken(name: str) -> None:
    stratify({"mlp": DIRECTIONS[name](), ".*": 0.1}, learning_rate=1.0, weight_decay=0.1)


def test_without_a_rate_all_groups_must_have_one_sign() -> None:
    adamw = optax.adamw(0.1)
    stratify({"mlp": adamw, "attention": optax.sgd(WARM_UP), ".*": Group(frozen=True)})
    for direction in (optax.scale_by_adam(), Group(rate=0.1), 0.1):
        with pytest.raises(ValueError, match=r"'mlp' of stratify descends .* but 'head' gives a"):
            stratify({"mlp": adamw, "head": direction})


def test_decay_does_not_go_with_whole_optimizers() -> None:
    """Added to an update that descends it would make parameters grow."""
    adamw = optax.adamw(0.1)
    for groups, arguments in (
        ({"mlp": adamw}, {"weight_decay": 0.1}),
        ({"mlp": adamw}, {"weight_decay": WARM_UP}),
        ({"mlp": Group(adamw, weight_decay=0.1)}, {}),
    ):
        with pytest.raises(ValueError, match="would make parameters grow"):
            stratify(groups, **arguments)
    stratify({"mlp": Group(adamw, weight_decay=0.0)})


@pytest.mark.parametrize(
    "transform",
    [
        optax.set_to_zero(),
        optax.scale(jnp.nan),
        scaled_by("grad_norm"),
        optax.masked(optax.sgd(0.1), {"names": {"of its own": True}}),
        optax.chain(optax.scale(1e-3), optax.add_noise(1.0, 0.0, 0)),
        optax.sgd(optax.piecewise_constant_schedule(0.0, {1000: 1.0})),
    ],
    ids=["zero", "NaN", "an argument", "names", "noise", "a long warm-up"],
)
def test_what_tells_nothing_is_no_reason_to_refuse(transform: Any) -> None:
    stratify({"mlp": transform, "head": optax.sgd(0.1), ".*": Group(frozen=True)})
    stratify({"mlp": transform, "head": optax.scale_by_adam()}, learning_rate=1.0)


def test_it_is_found_out_inside_programs_too() -> None:
    def build(x: jax.Array) -> jax.Array:
        with pytest.raises(ValueError, match="descends by itself"):
            stratify({"mlp": optax.adamw(0.1)}, learning_rate=x)
        # Made of a tracer, it cannot be tried out.
        tx = stratify({"mlp": optax.adamw(x)}, learning_rate=1.0)
        return tx.init({"mlp": x})[-1].learning_rate

    x = jnp.asarray(0.1)
    assert jax.jit(build)(x) == 1.0
    jax.make_jaxpr(jax.vmap(build))(jnp.ones(2))
    jax.make_jaxpr(jax.grad(build))(x)
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh), pytest.raises(ValueError, match="descends by itself"):
        stratify({"mlp": optax.sgd(0.1)}, learning_rate=1.0)


def test_it_does_not_try_a_transformation_twice() -> None:
    calls = []

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        calls.append(jax.tree.structure(updates))
        return updates, state

    tx = optax.GradientTransformation(lambda _: (), update)
    injected = optax.inject_hyperparams(stratify)({"mlp": tx}, learning_rate=0.1)
    tried = len(calls)
    params = {"mlp": jnp.ones((2, 2))}
    state = injected.init(params)
    for _ in range(3):
        _, state = injected.update(params, state, params)
    stratify({"mlp": tx, "head": tx})
    assert 0 <= tried <= 4
    assert len(calls) <= 4 + 3


def test_it_goes_on_only_while_updates_are_zero_and_gives_up() -> None:
    def steps_tried(first: int) -> int:
        def update(updates: Any, count: Any, params: Any = None) -> Any:
            tried.append(count)
            return jax.tree.map(lambda u: u * (count >= first), updates), count + 1

        tried: list[Any] = []
        stratify({"mlp": optax.GradientTransformation(lambda _: 0, update)}, learning_rate=1.0)
        return len(tried)

    assert [steps_tried(first) for first in (0, 3, 8, 63, 1000)] == [4, 4, 9, 64, 64]


def test_it_takes_a_fraction_of_a_second() -> None:
    def seconds() -> float:
        start = time.process_time()
        stratify({"mlp": optax.scale_by_adam(b1=0.8)}, learning_rate=1.0)
        return time.process_time() - start

    seconds()
    assert min(seconds() for _ in range(3)) < 0.1
