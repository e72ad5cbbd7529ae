"""One call that gives each group of layer types a transformation of its own."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    decays,
    per_layer,
    scale_by_muon,
    skip_counts,
    skip_nonfinite,
    stratify,
    warmup_cosine,
)
from tests.support import trees

HIDDEN = ("attention", "mlp")
OTHERS = ("embedding", "head", "norm")


def ones(*names: str) -> dict[str, jax.Array]:
    return {name: jnp.ones((2, 2)) for name in names}


def apply(tx: optax.GradientTransformation, tree: Any) -> Any:
    return tx.update(tree, tx.init(tree), tree)[0]


def hybrid(**arguments: Any) -> optax.GradientTransformationExtraArgs:
    return stratify({HIDDEN: scale_by_muon(), OTHERS: optax.scale_by_adam()}, **arguments)


def counts(state: Any) -> list[int]:
    return [int(count) for _, count in optax.tree.get_all_with_path(state, "count")]


def test_each_group_has_its_own_transformation() -> None:
    tx = stratify({HIDDEN: optax.sgd(1.0), "head": optax.sgd(0.1)})
    updates = apply(tx, ones("attn", "mlp", "lm_head"))
    assert {name: round(float(u[0, 0]), 3) for name, u in updates.items()} == {
        "attn": -1.0,
        "mlp": -1.0,
        "lm_head": -0.1,
    }


def test_a_group_shares_one_state() -> None:
    tx = stratify({("attention", "mlp", "head"): optax.scale_by_adam()})
    params = ones("attn", "mlp", "lm_head")
    state = tx.init(params)
    assert sum(x.size for x in jax.tree.leaves(state)) == 2 * 12 + 1  # two moments, one count
    chex.assert_trees_all_close(apply(tx, params), apply(optax.scale_by_adam(), params))


def test_the_clip_is_by_the_norm_of_all_groups_together() -> None:
    tx = stratify({HIDDEN: optax.identity(), "head": optax.identity()}, clip=1.0, learning_rate=1.0)
    updates = apply(tx, {"mlp": jnp.full((3,), 3.0), "lm_head": jnp.full((1,), 4.0)})
    norm = np.sqrt(27 + 16)
    np.testing.assert_allclose(updates["mlp"], -3 / norm, rtol=1e-6)
    np.testing.assert_allclose(updates["lm_head"], -4 / norm, rtol=1e-6)


@pytest.mark.parametrize("clip", [0.1, 1.0, 1e6])
def test_on_ordinary_numbers_the_clip_is_that_of_optax(clip: float) -> None:
    g, ours = trees.model(seed=3), stratify({".*": 1.0}, clip=clip)
    optaxs = optax.clip_by_global_norm(clip)
    once = jax.jit(lambda g: (apply(ours, g), apply(optaxs, g)))
    chex.assert_trees_all_close(*once(g), rtol=1e-6, atol=0)


def test_decay_is_of_matrices_alone_and_goes_with_the_rate() -> None:
    params = trees.model()
    tx = hybrid(learning_rate=0.5, weight_decay=0.1)
    plain = hybrid(learning_rate=0.5)
    g = trees.model(seed=2)
    decayed, _ = jax.jit(lambda p: tx.update(g, tx.init(p), p))(params)
    without, _ = jax.jit(lambda p: plain.update(g, plain.init(p), p))(params)
    expected = jax.tree.map(
        lambda u, p, decay: u - 0.05 * p * decay, without, params, decays(params)
    )
    chex.assert_trees_all_close(decayed, expected, rtol=1e-5, atol=1e-6)
    assert not decays(params)["layers"]["attention_norm"]["scale"]


def test_without_a_rate_it_gives_directions_for_a_chain() -> None:
    outside = optax.chain(
        optax.clip_by_global_norm(1.0), hybrid(), optax.scale_by_learning_rate(0.1)
    )
    params = trees.model()
    once = jax.jit(
        lambda tree: (apply(outside, tree), apply(hybrid(learning_rate=0.1, clip=1.0), tree))
    )
    # Norms added up in another order: what Newton-Schulz makes of it is 1e-7 at most.
    chex.assert_trees_all_close(*once(params), rtol=1e-5, atol=1e-6)


def test_all_counts_are_equal_also_after_skipped_steps() -> None:
    tx = skip_nonfinite(
        hybrid(
            learning_rate=warmup_cosine(0.1, 100),
            clip=1.0,
            weight_decay=optax.constant_schedule(0.1),
        )
    )
    params = {"embed": jnp.ones((3, 2)), "mlp": jnp.eye(2), "ln_1": jnp.ones(2)}
    update = jax.jit(tx.update)
    state = tx.init(params)
    for size in (1.0, jnp.nan, 1.0, jnp.inf, 1.0):
        before = state
        updates, state = update(jax.tree.map(lambda p, s=size: p * s, params), state, params)
        if not np.isfinite(size):
            chex.assert_trees_all_equal(before.inner_state, state.inner_state)
            assert not any(bool(jnp.any(u)) for u in jax.tree.leaves(updates))
    assert skip_counts(state).total == 2
    assert len(counts(state)) >= 3  # Muon's, Adam's, the schedule's
    assert set(counts(state)) == {3}


def test_accumulated_gradients_are_as_one_large_batch() -> None:
    params = {"embed": jnp.ones((3, 2)), "mlp": jnp.array([[1.0, 2.0], [0.0, 1.0]])}
    tx = hybrid(learning_rate=0.1)
    accumulated = optax.MultiSteps(tx, every_k_schedule=2)
    expected = apply(tx, params)

    @jax.jit
    def twice(params: Any) -> Any:
        state = accumulated.init(params)
        g = jax.tree.map(lambda p: 0.5 * p, params)
        _, state = accumulated.update(g, state, params)
        g = jax.tree.map(lambda p: 1.5 * p, params)
        return accumulated.update(g, state, params)[0]

    chex.assert_trees_all_close(twice(params), expected, rtol=1e-5)


def test_rates_clips_and_decays_can_be_injected() -> None:
    params = {"embed": jnp.ones((3, 2)), "mlp": jnp.array([[1.0, 2.0], [0.0, 1.0]])}
    groups = {HIDDEN: scale_by_muon(), OTHERS: optax.scale_by_adam()}
    arguments = {"learning_rate": 0.1, "clip": 1.0, "weight_decay": 0.01}
    injected = optax.inject_hyperparams(stratify)(groups, **arguments)
    state = injected.init(params)
    chex.assert_trees_all_equal_structs(state.inner_state, hybrid(**arguments).init(params))
    updates, _ = injected.update(params, state, params)
    chex.assert_trees_all_close(updates, apply(hybrid(**arguments), params), rtol=1e-6)


def shampoo() -> optax.GradientTransformation:
    """A second-order rule in small: L^(-1/4) G R^(-1/4), for one matrix at a time."""

    def root(x: jax.Array) -> jax.Array:
        values, vectors = jnp.linalg.eigh(x)
        return (vectors * (values + 1e-6) ** -0.25) @ vectors.T

    def init(params: Any) -> Any:
        return jax.tree.map(lambda p: tuple(jnp.zeros((n, n)) for n in p.shape), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        state = jax.tree.map(lambda g, lr: (lr[0] + g @ g.T, lr[1] + g.T @ g), updates, state)
        return jax.tree.map(lambda g, lr: root(lr[0]) @ g @ root(lr[1]), updates, state), state

    return optax.GradientTransformation(init, update)


@pytest.mark.parametrize("rule", [shampoo, lambda: optax.contrib.scale_by_galore(rank=2)])
def test_any_rule_for_matrices_takes_a_stack_as_a_list(rule: Any) -> None:
    params = trees.model()
    del params["layers"]["attention"]
    tx = stratify({HIDDEN: per_layer(rule()), OTHERS: optax.scale_by_adam()}, learning_rate=0.1)

    @jax.jit
    def both(params: Any) -> Any:
        return apply(tx, params), trees.restack(apply(tx, trees.unstack(params)))

    chex.assert_trees_all_close(*both(params), rtol=1e-3, atol=1e-5)


def test_the_hybrid_trains_under_one_clip_and_one_schedule() -> None:
    tx = hybrid(learning_rate=warmup_cosine(0.05, 60, warmup_steps=5), clip=1.0)
    params = {"embed": jnp.zeros((6, 4)), "mlp": jnp.eye(4), "norm": jnp.ones(4)}
    target = jax.random.normal(jax.random.key(0), (6, 4))

    def loss(params: Any) -> jax.Array:
        return jnp.mean(((params["embed"] @ params["mlp"]) * params["norm"] - target) ** 2)

    def step(carry: Any, _: Any) -> Any:
        value, g = jax.value_and_grad(loss)(carry[0])
        updates, state = tx.update(g, carry[1], carry[0])
        return (optax.apply_updates(carry[0], updates), state), value

    _, losses = jax.jit(lambda: jax.lax.scan(step, (params, tx.init(params)), length=60))()
    assert float(losses[-1]) < 0.3 * float(losses[0])


def test_uncovered_parameters_are_listed_with_their_types() -> None:
    params = {
        "mlp": jnp.ones((2, 2)),
        "layers": [{"norm": {"scale": jnp.ones(2)}}] * 12,
        "embed": 1.0,
    }
    with pytest.raises(ValueError, match="no transformation for these parameters") as error:
        stratify({"mlp": optax.sgd(1.0)}).init(params)
    lines = str(error.value).splitlines()
    assert lines[1:] == [
        "  embed (embedding)",
        "  layers/0..11/norm/scale (norm)",
        "Add their types to a group: embedding, norm; or let a last key '.*' take all others.",
    ]


@pytest.mark.parametrize(
    ("groups", "arguments", "message"),
    [
        ({"mlp": optax.sgd(1.0), HIDDEN: optax.sgd(1.0)}, {}, "'mlp' stands in two groups"),
        ({"mlp": optax.identity()}, {"learning_rate": -1.0}, "learning_rate must be"),
        ({"mlp": optax.identity()}, {"clip": -1.0}, "clip must be"),
        ({"mlp": optax.identity()}, {"weight_decay": -1.0}, "weight_decay must be"),
    ],
)
def test_bad_arguments_are_refused_with_one_sentence(
    groups: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        stratify(groups, **arguments)
