"""Rates that fall with the distance from the output, on numbered and on stacked layers."""

from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, PartitionSpec

from optax_strat import DEFAULT_RULES, Layers, scale_by_depth
from tests.support import trees

DECAY = 0.75


def scales(params: Any, decay: Any = 0.5, **arguments: Any) -> dict[str, list[float]]:
    """What each leaf is multiplied by, each entry once, as an exponent of the decay."""
    tx = scale_by_depth(decay, **arguments)
    ones = jax.tree.map(jnp.ones_like, params)
    scaled, _ = tx.update(ones, tx.init(params))
    exponents = jax.tree.map(lambda x: np.round(np.log(x) / np.log(decay), 3), scaled)
    return {
        path: [float(value) for value in sorted(set(np.ravel(x).tolist()), reverse=True)]
        for path, x in trees.by_path(exponents).items()
    }


def timm(name: str, blocks: int, decay: float) -> float:
    """`get_num_layer_for_vit` and the scales of BEiT's and timm's `optim_factory.py`, by hand."""
    layers = blocks + 2
    if name.startswith(("cls_token", "pos_embed", "patch_embed")):
        layer = 0
    elif name.startswith("blocks"):
        layer = int(name.split("/")[1]) + 1
    else:
        layer = layers - 1
    return [decay ** (layers - 1 - i) for i in range(layers)][layer]


def vision_transformer(blocks: int) -> dict[str, Any]:
    def block() -> dict[str, Any]:
        return {
            "norm1": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
            "attn": {"qkv": {"kernel": jnp.ones((4, 12)), "bias": jnp.ones(12)}},
            "mlp": {"fc1": {"kernel": jnp.ones((4, 8))}, "fc2": {"kernel": jnp.ones((8, 4))}},
        }

    return {
        "cls_token": jnp.ones((1, 1, 4)),
        "pos_embed": jnp.ones((1, 5, 4)),
        "patch_embed": {"proj": {"kernel": jnp.ones((2, 2, 3, 4)), "bias": jnp.ones(4)}},
        "blocks": [block() for _ in range(blocks)],
        "norm": {"scale": jnp.ones(4), "bias": jnp.ones(4)},
        "head": {"kernel": jnp.ones((4, 10)), "bias": jnp.ones(10)},
    }


@pytest.mark.parametrize("blocks", [1, 12])
def test_the_numbers_are_those_of_timm(blocks: int) -> None:
    params = vision_transformer(blocks)
    tx = scale_by_depth(DECAY)
    scaled, _ = tx.update(params, tx.init(params))
    for path, x in trees.by_path(scaled).items():
        np.testing.assert_allclose(x, timm(path, blocks, DECAY), rtol=1e-6, err_msg=path)


def test_numbers_in_print() -> None:
    """BEiT-B: a decay of 0.65 on 12 blocks."""
    params = vision_transformer(12)
    tx = scale_by_depth(0.65)
    scaled, _ = tx.update(params, tx.init(params))
    first, last = (scaled["blocks"][i]["attn"]["qkv"]["bias"][0] for i in (0, 11))
    np.testing.assert_allclose(first, 0.0056880, rtol=1e-4)
    np.testing.assert_allclose(scaled["pos_embed"][0, 0, 0], 0.0036972, rtol=1e-4)
    np.testing.assert_allclose([last, scaled["norm"]["bias"][0]], [0.65, 1.0], rtol=1e-6)


def test_stacked_layers_are_scaled_as_the_same_in_a_list() -> None:
    stacked = trees.model()
    tx = scale_by_depth(DECAY)

    @jax.jit
    def both(params: Any) -> Any:
        listed = trees.unstack(params)
        scaled, _ = tx.update(params, tx.init(params))
        return scaled, trees.restack(tx.update(listed, tx.init(listed))[0])

    chex.assert_trees_all_equal(*both(stacked))
    expected = stacked["layers"]["mlp"]["up"]["kernel"] * np.array([DECAY**2, DECAY])[:, None, None]
    scaled, _ = both(stacked)
    np.testing.assert_allclose(scaled["layers"]["mlp"]["up"]["kernel"], expected, rtol=1e-6)


def test_the_axis_of_the_layers_may_be_the_second() -> None:
    params = {"decoder": {"layers": {"mlp": {"wi": {"kernel": jnp.ones((8, 3, 16))}}}}}
    tx = scale_by_depth(0.5, Layers(stacked={"layers": 1}))
    scaled, _ = tx.update(params, tx.init(params))
    kernel = scaled["decoder"]["layers"]["mlp"]["wi"]["kernel"]
    np.testing.assert_array_equal(
        kernel, np.array([0.125, 0.25, 0.5])[None, :, None] * np.ones((8, 3, 16))
    )


def test_of_scanned_groups_of_numbered_layers_slices_come_first() -> None:
    """MaxText's Gemma 3: slice i of layers_j is block i · groups + j."""
    params = {
        "embed": jnp.ones((5, 4)),
        "layers": {f"layers_{j}": {"mlp": {"kernel": jnp.ones((2, 4, 4))}} for j in range(3)},
        "head": jnp.ones((4, 5)),
    }
    assert scales(params) == {
        "embed": [7],
        "layers/layers_0/mlp/kernel": [6, 3],
        "layers/layers_1/mlp/kernel": [5, 2],
        "layers/layers_2/mlp/kernel": [4, 1],
        "head": [0],
    }


@pytest.mark.parametrize(
    "name", ["h/{}", "layers_{}", "encoder/block_{}", "model.layers.{}", "TransformerBlock_{}"]
)
@pytest.mark.parametrize("first", [0, 1])
def test_numbers_are_read_in_every_naming_from_0_or_from_1(name: str, first: int) -> None:
    names = [f"{name.format(i + first)}/mlp/experts/3/kernel" for i in range(11)]
    params = dict.fromkeys([*names, "wte/embedding"], jnp.ones((2, 2)))
    found = scales(params)
    assert [found[path][0] for path in names] == list(range(11, 0, -1))
    assert found["wte/embedding"] == [12]


def test_norms_and_biases_are_where_their_module_is() -> None:
    vector = jnp.ones(4)
    params = {
        "embedding_model": {
            "embeddings": {"LayerNorm": {"scale": vector}, "projection": {"bias": vector}},
            "embed_norm": vector,
            "layers": [{"norm": vector, "mlp": {"bias": vector}}, {"norm": vector}],
            "final_norm": vector,
        },
        "lm_head": {"bias": vector},
    }
    assert scales(params) == {
        "embedding_model/embeddings/LayerNorm/scale": [3],
        "embedding_model/embeddings/projection/bias": [3],
        "embedding_model/embed_norm": [3],
        "embedding_model/layers/0/norm": [2],
        "embedding_model/layers/0/mlp/bias": [2],
        "embedding_model/layers/1/norm": [1],
        "embedding_model/final_norm": [0],
        "lm_head/bias": [0],
    }


def encoder_and_decoder(encoder: int, decoder: int) -> dict[str, Any]:
    kernel = jnp.ones((2, 2))
    return {
        "shared": {"embedding": kernel},
        "encoder": {"pos_embed": kernel, "layers": [{"mlp": kernel}] * encoder},
        "decoder": {"layers": [{"mlp": kernel}] * decoder},
    }


def test_containers_of_equal_length_in_two_modules_are_numbered_each_for_itself() -> None:
    found = scales(encoder_and_decoder(2, 2))
    assert found["encoder/layers/0/mlp"] == found["decoder/layers/0/mlp"] == [2]
    assert found["encoder/layers/1/mlp"] == found["decoder/layers/1/mlp"] == [1]
    assert found["shared/embedding"] == found["encoder/pos_embed"] == [3]


def test_containers_of_unequal_length_are_refused_until_told_how_they_are_numbered() -> None:
    params = encoder_and_decoder(2, 3)
    with pytest.raises(ValueError, match="blocks in several containers") as error:
        scale_by_depth(0.5).init(params)
    assert "stacks=('decoder/layers', 'encoder/layers')" in str(error.value)
    each = scales(params, stacks=("encoder/layers", "decoder/layers"))
    assert [each[f"{half}/layers/0/mlp"] for half in ("encoder", "decoder")] == [[2], [3]]
    assert (each["encoder/pos_embed"], each["shared/embedding"]) == ([3], [4])
    as_one = scales(params, stacks=(("encoder/layers", "decoder/layers"),))
    assert [as_one[f"{half}/layers/0/mlp"] for half in ("encoder", "decoder")] == [[5], [3]]
    assert as_one["encoder/pos_embed"] == as_one["shared/embedding"] == [6]


def test_dense_layers_come_before_those_with_experts() -> None:
    params = {
        "token_embedder": jnp.ones((9, 4)),
        "decoder": {
            "dense_layers": {"mlp": {"kernel": jnp.ones((2, 4, 4))}},
            "moe_layers": {"mlp": {"kernel": jnp.ones((3, 4, 4))}},
        },
    }
    assert scales(params) == {
        "token_embedder": [6],
        "decoder/dense_layers/mlp/kernel": [5, 4],
        "decoder/moe_layers/mlp/kernel": [3, 2, 1],
    }


@pytest.mark.parametrize(
    ("stacks", "message"),
    [
        (("layers",), "'layers', which may be any of"),
        (("encoder/layers", "decoder/blocks"), "no container of blocks is called so"),
        (("encoder/layers", "encoder/layers"), "name each once"),
        (("towers",), r"found no blocks in \('towers',\)"),
    ],
)
def test_stacks_that_do_not_fit_are_refused(stacks: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scale_by_depth(0.5, stacks=stacks).init(encoder_and_decoder(2, 3))


def test_a_tree_without_blocks_is_refused_not_left_as_it_is() -> None:
    with pytest.raises(ValueError, match="found no blocks, neither numbered"):
        scale_by_depth(0.5).init({"embed": jnp.ones((2, 2)), "head": jnp.ones((2, 2))})
    scale_by_depth(0.5).init([jnp.ones(2)])  # without names nothing can be said


def test_blocks_that_are_frozen_may_be_hidden_from_it() -> None:
    """Numbers are counted from the last block, which it has to see."""
    params = vision_transformer(4)
    mask = jax.tree.map(lambda _: False, params)
    mask |= {"blocks": [False, False, True, True], "head": True}
    tx = optax.masked(scale_by_depth(0.5), mask)
    scaled, _ = tx.update(params, tx.init(params))
    found = [float(block["norm1"]["bias"][0]) for block in scaled["blocks"]]
    assert found == [1.0, 1.0, 0.25, 0.5]


@pytest.mark.parametrize("decay", [0.0, -0.5, 1.5, "0.5"])
def test_a_bad_decay_is_refused(decay: Any) -> None:
    with pytest.raises(ValueError, match="decay must"):
        scale_by_depth(decay)
    with pytest.raises(ValueError, match="stacks must be a tuple"):
        scale_by_depth(0.5, stacks="layers")


def test_types_of_ones_own_may_be_embeddings() -> None:
    params = {"stem": jnp.ones((2, 2)), "h": [{"mlp": jnp.ones((2, 2))}]}
    layers = Layers(rules=(("stem", "embedding"), *DEFAULT_RULES))
    assert scales(params, layers=layers)["stem"] == [2]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "complex64"])
def test_it_keeps_dtypes_and_has_no_state(dtype: str) -> None:
    params = trees.model(dtype)
    tx = scale_by_depth(0.5)
    assert tx.init(params) == optax.EmptyState()
    scaled, _ = jax.eval_shape(lambda p: tx.update(p, tx.init(p)), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(scaled, params)


def test_its_decay_can_be_injected() -> None:
    params = trees.model()
    injected = optax.inject_hyperparams(scale_by_depth)(DECAY)
    plain = scale_by_depth(DECAY)

    @jax.jit
    def both(params: Any) -> Any:
        updates, _ = injected.update(params, injected.init(params), params)
        return updates, plain.update(params, plain.init(params))[0]

    chex.assert_trees_all_close(*both(params), rtol=1e-5)


@pytest.mark.parametrize("spec", [PartitionSpec("fsdp"), PartitionSpec(None, "fsdp")])
def test_it_keeps_shardings_on_explicit_meshes(spec: PartitionSpec) -> None:
    mesh = jax.make_mesh((8,), ("fsdp",), axis_types=(AxisType.Explicit,))
    tx = scale_by_depth(0.5, Layers(stacked=("layers",)))
    with jax.set_mesh(mesh):
        params = {"layers": {"mlp": jax.device_put(jnp.ones((8, 16, 4)), spec)}}
        params["layers"]["norm"] = jax.device_put(jnp.ones((8, 16)), spec)
        scaled, _ = jax.jit(lambda p: tx.update(p, tx.init(p)))(params)
        assert jax.typeof(scaled["layers"]["mlp"]) == jax.typeof(params["layers"]["mlp"])
    found = jax.device_get(scaled["layers"]["mlp"])[:, 0, 0]
    np.testing.assert_allclose(found, 0.5 ** np.arange(8, 0, -1))


def test_types_of_ones_own_do_not_hide_the_embedding() -> None:
    params = {"embed": 1.0, "layers": [{"mlp": 1.0}, {"mlp": 1.0}], "head": 1.0}
    labels = {"embed": "tokens", "layers": "trunk", "head": "tokens"}
    for layers in (Layers(), labels):
        tx = scale_by_depth(0.5, layers)
        scaled, _ = tx.update(params, tx.init(params))
        assert (float(scaled["embed"]), float(scaled["head"])) == (0.125, 1.0)
