"""Muon on the matrices of a language model: against Optax's and Jordan's, and on meshes."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from optax import contrib

from optax_strat import (
    DEFAULT_MATRICES,
    DEFAULT_RULES,
    Layers,
    scale_by_muon,
    stratify,
)
from tests.support import fast, trees

HIDDEN_TYPES = ("attention", "mlp")
OTHERS = ("embedding", "head", "norm")


def flat_matrices(tree: Any) -> Any:
    """The unstacked model with attention kernels as plain matrices."""

    def flat(path: Any, x: jax.Array) -> jax.Array:
        name = jax.tree_util.keystr(path)
        if x.ndim < 3:
            return x
        return x.reshape(-1, x.shape[-1]) if "out" in name else x.reshape(x.shape[0], -1)

    return jax.tree_util.tree_map_with_path(flat, trees.unstack(tree))


def test_a_stack_of_heads_is_optaxs_muon_on_a_list_of_plain_matrices() -> None:
    """Three steps of the hybrid on stacked [L, D, N, H] kernels, against optax.contrib.muon."""
    params, gs = trees.model(), trees.gradients(trees.model(), steps=3)
    rate = optax.linear_schedule(0.1, 0.01, 3)
    ours = stratify(
        {HIDDEN_TYPES: scale_by_muon(ns_steps=2), OTHERS: optax.scale_by_adam(nesterov=True)},
        learning_rate=rate,
    )
    reference = contrib.muon(
        rate,
        muon_weight_dimension_numbers=lambda tree: jax.tree_util.tree_map_with_path(
            lambda path, x: contrib.MuonDimensionNumbers() if is_hidden(path) else None, tree
        ),
        ns_steps=2,
        consistent_rms=0.2,
    )

    def is_hidden(path: Any) -> bool:
        return "'layers'" in jax.tree_util.keystr(path) and "scale" not in jax.tree_util.keystr(
            path
        )

    @jax.jit
    def train(params: Any, gs: Any) -> Any:
        def run(tx: Any, params: Any, dress: Any) -> Any:
            def step(carry: Any, g: Any) -> Any:
                updates, state = tx.update(dress(g), carry[1], carry[0])
                return (optax.apply_updates(carry[0], updates), state), None

            return jax.lax.scan(step, (dress(params), tx.init(dress(params))), gs)[0][0]

        listed = run(ours, params, trees.unstack)
        stacked = run(ours, params, lambda tree: tree)
        return (
            flat_matrices(stacked),
            flat_matrices(trees.restack(listed)),
            run(reference, params, flat_matrices),
        )

    stacked, listed, expected = train(params, gs)
    chex.assert_trees_all_close(stacked, expected, rtol=1e-4, atol=1e-5)
    chex.assert_trees_all_close(listed, expected, rtol=1e-4, atol=1e-5)


def plain(seed: int = 0) -> dict[str, Any]:
    """Plain matrices, wide, tall and square."""
    rng = np.random.default_rng(seed)
    shapes = {"attn": {"query": (6, 6)}, "mlp": {"up": (6, 16), "down": (16, 6)}}
    return jax.tree.map(
        lambda dims: jnp.asarray(rng.normal(size=dims), jnp.float32),
        shapes,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def several(tx: Any, gs: Any) -> list[Any]:
    """The updates of some steps."""
    state, found, update = tx.init(gs[0]), [], jax.jit(tx.update)
    for g in gs:
        updates, state = update(g, state, g)
        found.append(updates)
    return found


COEFFICIENTS = ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (2.8366, -3.0525, 1.2012))


@pytest.mark.parametrize("size", fast([(0.2, 0.2), (0.4, 0.4), ("jordan", None)], (0.2, 0.2)))
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"nesterov": False, "beta": 0.8},
        {"ns_steps": 3, "preconditioning": "aol"},
        {"preconditioning": "schatten"},
        {"preconditioning": "spectral"},
        {"ns_coeffs": (2.0, -1.5, 0.5), "ns_steps": 9},
        {"ns_coeffs": COEFFICIENTS},
    ],
    ids=str,
)
def test_on_plain_matrices_it_is_optaxs_muon(arguments: dict[str, Any], size: Any) -> None:
    rms, consistent_rms = size
    gs = [plain(seed) for seed in range(4)]
    ours = optax.chain(scale_by_muon(rms=rms, **arguments), optax.scale_by_learning_rate(0.02))
    reference = contrib.muon(0.02, consistent_rms=consistent_rms, **arguments)
    for found, expected in zip(several(ours, gs), several(reference, gs), strict=True):
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


def jordans_steps(gs: Any, beta: float, nesterov: bool) -> np.ndarray:
    """Muon as Jordan writes it, on PyTorch's [out, in] weights, in float64: its last update."""
    momentum = np.zeros_like(gs[0])
    for g in gs:
        momentum = momentum + (1 - beta) * (g - momentum)
        x = g + beta * (momentum - g) if nesterov else momentum
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        x = x.T if tall else x
    return x * max(1, g.shape[0] / g.shape[1]) ** 0.5


@pytest.mark.parametrize(("beta", "steps", "nesterov"), [(0.95, 4, False), (0.5, 30, True)])
def test_with_his_size_it_takes_jordans_own_steps(beta: float, steps: int, nesterov: bool) -> None:
    """With Nesterov's momentum once Optax's bias correction, which he has not, has faded."""
    gs = [plain(seed) for seed in range(steps)]
    found = several(scale_by_muon(beta, rms="jordan", nesterov=nesterov), gs)[-1]
    for name, update in trees.by_path(found).items():
        module, leaf = name.split("/")
        his = jordans_steps([np.asarray(g[module][leaf], np.float64).T for g in gs], beta, nesterov)
        np.testing.assert_allclose(update, his.T, rtol=1e-3, atol=1e-4)


def test_the_matrices_of_deepseeks_attention_are_orthogonalized_among_experts_too() -> None:
    rng = np.random.default_rng(0)

    def tree(*dims: int) -> dict[str, Any]:
        return {"kernel": jnp.asarray(rng.normal(size=dims), jnp.float32)}

    rank, layers, heads, size, width = 24, 3, 4, 8, 48
    gradients = {
        "decoder": {
            "moe_layers": {
                "self_attention": {
                    "wq_b": tree(rank, layers, heads, size),
                    "out": tree(heads, layers, size, width),
                },
                "pre_norm": {"scale": jnp.ones((width, layers))},
            }
        }
    }
    directions = {
        ("attention", "mlp"): scale_by_muon(rms=None),
        ("norm", "bias"): optax.scale_by_adam(),
    }
    (updates,) = several(stratify(directions), [gradients])
    attention = updates["decoder"]["moe_layers"]["self_attention"]
    for layer in range(layers):
        for matrix in (
            attention["wq_b"]["kernel"][:, layer].reshape(rank, -1),
            attention["out"]["kernel"][:, layer].reshape(-1, width),
        ):
            values = np.linalg.svd(np.asarray(matrix), compute_uv=False)
            assert 0.6 < values.min() < values.max() < 1.2


def test_heads_may_be_orthogonalized_one_by_one() -> None:
    query = trees.model()["layers"]["attention"]["query"]["kernel"]
    rules = (("query", "ibo"), *DEFAULT_MATRICES)
    tx = scale_by_muon(matrices=rules)
    (found,) = several(tx, [{"layers": {"attention": {"query": query}}}])
    heads = {f"attention_{i}_{h}": query[i, :, h] for i in range(2) for h in range(2)}
    (expected,) = several(scale_by_muon(), [heads])
    for i in range(2):
        for h in range(2):
            np.testing.assert_allclose(
                found["layers"]["attention"]["query"][i, :, h],
                expected[f"attention_{i}_{h}"],
                rtol=1e-4,
                atol=1e-5,
            )


def test_updates_have_the_size_that_rms_says() -> None:
    tree = {"mlp": jnp.asarray(np.random.default_rng(0).normal(size=(3, 64, 16)), jnp.float32)}
    tx = scale_by_muon(rms=0.4, ns_steps=10)
    updates, _ = tx.update(tree, tx.init(tree))
    rms = float(jnp.sqrt(jnp.mean(updates["mlp"] ** 2)))
    assert rms == pytest.approx(0.4, rel=0.15)  # five coefficients leave 0.7 to 1.2


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral", "aol", "schatten"])
@pytest.mark.parametrize("size", [0.0, 1e-5, 300.0])
def test_float16_gradients_are_orthogonalized_whatever_their_size(
    preconditioning: Any, size: float
) -> None:
    """Their squares leave float16's range on both sides, and 1e-8 is 0 in it."""
    gradient = {"mlp": size * jnp.diag(jnp.array([1.0, -1.0] * 64, jnp.float16))}
    tx = scale_by_muon(preconditioning=preconditioning, rms=None)
    state = tx.init(gradient)
    updates, after = jax.jit(tx.update)(gradient, state)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (gradient, state))
    ones = np.abs(np.diagonal(updates["mlp"].astype(np.float32)))
    if size:
        assert 0.6 < ones.min() <= ones.max() < 1.3
    else:
        assert not np.any(updates["mlp"])


@pytest.mark.parametrize("preconditioning", ["frobenius", "spectral"])
@pytest.mark.parametrize("mu_dtype", [None, "bfloat16", "float16", "float32"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_state_and_updates_keep_their_dtypes(
    dtype: str, mu_dtype: Any, preconditioning: Any
) -> None:
    tree = {"mlp": jnp.ones((3, 2), dtype)}
    tx = scale_by_muon(mu_dtype=mu_dtype, preconditioning=preconditioning)
    state = tx.init(tree)
    assert state.mu["mlp"].dtype == (mu_dtype or dtype)
    updates, after = jax.eval_shape(tx.update, tree, state)
    chex.assert_trees_all_equal_shapes_and_dtypes((updates, after), (tree, state))


@pytest.mark.parametrize("kind", [AxisType.Explicit, AxisType.Auto])
def test_muon_works_on_meshes_and_keeps_the_shardings(kind: AxisType) -> None:
    params = {
        "layers": {"attn": {"query": trees.model()["layers"]["attention"]["query"]["kernel"]}}
    }
    tx = scale_by_muon()
    expected, _ = tx.update(params, tx.init(params))
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
        sharded = jax.tree.map(lambda x: jax.device_put(x, place), params)
        updates, state = jax.jit(lambda g: tx.update(g, tx.init(g)))(sharded)
    chex.assert_trees_all_close(jax.device_get(updates), expected, rtol=1e-5, atol=1e-6)
    for x in jax.tree.leaves((updates, state.mu)):
        assert x.sharding.is_equivalent_to(place, x.ndim)


@pytest.mark.parametrize("init", ["eager", "jitted"])
@pytest.mark.parametrize("spec", [(None, None, None), ("fsdp", None, None), (None, None, "fsdp")])
def test_the_state_keeps_its_type_on_explicit_axes_and_a_step_compiles_once(
    spec: tuple[Any, ...], init: str
) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    tx = optax.inject_hyperparams(scale_by_muon, static_args="ns_steps")(
        beta=0.9, layers=Layers(stacked=("layers",))
    )
    with jax.set_mesh(mesh):
        place = NamedSharding(mesh, PartitionSpec(*spec))
        g = {"layers": {"mlp_up": {"kernel": jax.device_put(jnp.ones((8, 16, 24)), place)}}}
        state = (jax.jit(tx.init) if init == "jitted" else tx.init)(g)
        step = jax.jit(lambda g, state: tx.update(g, state), donate_argnums=1)
        types = jax.tree.map(jax.typeof, state)
        for _ in range(3):
            updates, state = step(g, state)
            assert jax.tree.map(jax.typeof, state) == types
            assert jax.tree.map(jax.typeof, updates) == jax.tree.map(jax.typeof, g)
        assert step._cache_size() == 1


def test_vectors_are_refused_with_the_rule_that_sends_them_elsewhere() -> None:
    params = {"attn": {"sinks": jnp.ones(4), "query": jnp.ones((4, 4))}}
    groups = {HIDDEN_TYPES: scale_by_muon(), "vector": optax.scale_by_adam()}
    with pytest.raises(ValueError, match="Muon is for matrices, and these") as error:
        scale_by_muon().init(params)
    assert "  attn/sinks\n" in str(error.value)
    rule = "((r'sinks', 'vector'), *DEFAULT_RULES)"
    assert f"layers=Layers(rules={rule})" in str(error.value)
    layers = Layers(rules=(("sinks", "vector"), *DEFAULT_RULES))
    stratify(groups, layers=layers).init(params)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 1.0}, "beta must lie in"),
        ({"ns_steps": 0}, "ns_steps must be"),
        ({"rms": 0.0}, "rms must be"),
        ({"rms": "keller"}, "rms must be one of 'jordan', but it is 'keller'"),
        ({"preconditioning": "svd"}, "preconditioning must be one of 'frobenius'"),
        ({"ns_coeffs": (1.0, 2.0)}, "ns_coeffs must be three numbers"),
        ({"ns_coeffs": ((1.0, 2.0, 3.0), (1.0,))}, "ns_coeffs must be three numbers"),
        ({"eps": -1.0}, "eps must be"),
        ({"mu_dtype": "int8"}, "mu_dtype must be a floating-point dtype"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_by_muon(**arguments)
