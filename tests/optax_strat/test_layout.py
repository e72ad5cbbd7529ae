"""Which leaves stack layers: found by evidence, told by the user, and never guessed in silence."""

import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from optax_strat import (
    Layers,
    aardvark,
    decays,
    describe,
    scale_by_stratopt,
    strata_names,
    stratopt,
)
from optax_strat._layout import layout
from tests.support import trees

L, D, F, N, H = 6, 16, 48, 4, 4


def of(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def counts(tree: Any, stacked: Any = None) -> dict[str, int]:
    """How many layers each leaf holds, by path."""
    return {leaf.name: leaf.count for leaf in layout(tree, stacked)}


def block(*lead: int) -> dict[str, Any]:
    """One block of a transformer, or a stack of them along the first axis."""
    return {
        "norm": {"scale": of(*lead, D)},
        "attention": {
            "query": {"kernel": of(*lead, D, N, H), "bias": of(*lead, N, H)},
            "out": {"kernel": of(*lead, N, H, D)},
        },
        "mlp": {"up": {"kernel": of(*lead, D, F)}, "down": {"kernel": of(*lead, F, D)}},
    }


def second_axis(tree: Any) -> Any:
    """A stack along the first axis as MaxText has it, along the second."""
    return jax.tree.map(lambda x: np.swapaxes(x, 0, 1) if x.ndim > 1 else x, tree)


def model(layers: Any) -> dict[str, Any]:
    return {"embed": {"embedding": of(64, D)}, "decoder": {"layers": layers}, "head": of(D, 64)}


def blocks_of(tree: Any, stacked: Any = None) -> set[int]:
    """The numbers of layers of all leaves in blocks."""
    return {n for name, n in counts(tree, stacked).items() if "layers" in name}


def test_each_slice_of_a_stacked_leaf_is_a_layer() -> None:
    assert counts(trees.model()) == {
        "embed/embedding": 1,
        "final_norm/scale": 1,
        "head/kernel": 1,
        "layers/attention/out/kernel": 2,
        "layers/attention/query/kernel": 2,
        "layers/attention_norm/scale": 2,
        "layers/mlp/down/kernel": 2,
        "layers/mlp/up/kernel": 2,
    }


SUBLAYERS: dict[str, Any] = {
    "named sublayers of one width": {
        "embed": of(10, 16),
        "layers": {"mlp_a": {"kernel": of(16, 16)}, "mlp_b": {"kernel": of(16, 16)}},
        "head": of(16, 10),
    },
    "with biases": {
        "layers": {
            "fc1": {"kernel": of(16, 16), "bias": of(16)},
            "fc2": {"kernel": of(16, 16), "bias": of(16)},
        }
    },
    "of equal inputs": {"blocks": {"mlp_a": {"kernel": of(8, 16)}, "mlp_b": {"kernel": of(8, 32)}}},
    "in PyTorch's layout": {
        "layers": {"mlp": {"weight": of(32, 8)}, "proj": {"weight": of(32, 8)}}
    },
    "with attention": {
        "layers": {"attention": {"query": {"kernel": of(16, 4, 4)}}, "mlp": {"kernel": of(16, 16)}}
    },
    "convolutions": {"layers": {f"conv{i}": {"kernel": of(3, 3, 16, 16)} for i in range(2)}},
    "an nnx.Dict": nnx.state(
        nnx.Dict(
            layers=nnx.Dict(
                mlp_a=nnx.Linear(16, 16, rngs=nnx.Rngs(0)),
                mlp_b=nnx.Linear(16, 16, rngs=nnx.Rngs(1)),
            )
        ),
        nnx.Param,
    ),
    "a list": {"layers": [block(), block()]},
    "a list as NNX has it": {"layers": {0: block(), 1: block()}},
    "a list as Haiku or Linen has it": {"layers": {"layer_0": block(), "layers_1": block()}},
    "numbered blocks": {"blocks": {"block_0": block(), "block_1": block()}},
    "no list at all": {"layers_0": block(), "layers_1": block()},
    "an array": {"layers": of(2, 3)},
    "no common size": {"layers": {"up": of(2, 3), "down": of(3, 2)}},
    "another name": {"mlp": of(2, 3)},
    "norms of two dimensions": {"norm1": {"scale": of(4, 4)}, "norm2": {"scale": of(4, 4)}},
    "norms a head": {
        "attention": {"norm": {"scale": of(4, 8)}, "query": {"kernel": of(32, 4, 8)}},
        "mlp": {"kernel": of(32, 64)},
    },
}


@pytest.mark.parametrize("name", SUBLAYERS)
def test_what_is_not_stacked_is_one_layer_a_leaf(name: str) -> None:
    assert set(counts(SUBLAYERS[name]).values()) == {1}


def test_hidden_kernels_of_one_width_decay_and_have_one_alpha_each() -> None:
    params = SUBLAYERS["named sublayers of one width"]
    assert decays(params)["layers"] == {"mlp_a": {"kernel": True}, "mlp_b": {"kernel": True}}
    assert str(describe(params)).endswith("4 arrays, 4 layers")
    state = scale_by_stratopt(second_moment="factored").init(jax.tree.map(jnp.asarray, params))
    assert state.alpha.shape == (4,)
    assert state.nu.rows["layers"]["mlp_a"]["kernel"].shape == (16, 1)


STACKS: dict[str, Any] = {
    "the first axis": model(block(L)),
    "the second axis": model(second_axis(block(L))),
    "one layer": model(block(1)),
    "as many layers as the width": model(block(D)),
    "with a scalar": model(block(L) | {"gain": of()}),
    "with a scalar a layer": model(block(L) | {"gain": of(L)}),
    "norms and an MLP alone": model({k: v for k, v in block(L).items() if k != "attention"}),
    "in encoder blocks": {"encoderblock": block(L)},
    "as Linen names a scanned block": {"embed": of(64, D), "ScanBlock_0": block(L)},
    "as T5X names them": {"decoder": {"decoder": second_axis(block(L)), "decoder_norm": of(D)}},
    "in a block of GPT-2's name": {"transformer": {"wte": of(64, D), "h": block(L), "ln_f": of(D)}},
    "Haiku's": {"transformer/__layer_stack_no_per_layer/mlp/~/linear_0": {"w": of(L, D, F)}},
}


@pytest.mark.parametrize("name", STACKS)
def test_stacks_are_found(name: str) -> None:
    tree = STACKS[name]
    expected = {"one layer": 1, "as many layers as the width": D}.get(name, L)
    parts = ("layer", "block", "/h/", "decoder/decoder/")
    found = {n for path, n in counts(tree).items() if any(part in path.lower() for part in parts)}
    assert found == ({1, L} if name == "with a scalar" else {expected})


def group(shape: Callable[[Any], Any] = second_axis, count: int = 3) -> dict[str, Any]:
    """Scanned groups of numbered layers, as MaxText has Gemma 3."""
    return {f"layers_{i}": shape(block(L)) for i in range(count)}


@pytest.mark.parametrize("shape", [second_axis, lambda tree: tree])
def test_scanned_groups_of_numbered_layers_are_found(shape: Any) -> None:
    tree = model(group(shape))
    assert blocks_of(tree) == {L}
    assert blocks_of(tree, {"layers": int(shape is second_axis)}) == {L}
    assert blocks_of(tree, ()) == {1}
    names = strata_names(tree, "block")
    assert f"decoder/layers/layers_2[{L - 1}]" in names
    assert len(names) == 2 + 3 * L


PARTS = {
    "attention": lambda path: "attention" in path,
    "queries": lambda path: "query/kernel" in path,
    "the MLP": lambda path: "mlp" in path,
    "norms and embedding": lambda path: "norm" in path or "embed" in path,
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("shape", [lambda tree: tree, second_axis])
def test_a_part_of_a_tree_has_the_layers_of_the_whole(part: str, shape: Any) -> None:
    """`optax.masked` and `optax.partition` show a transformation some of the leaves alone."""
    params = model(shape(block(L)))
    mask = jax.tree_util.tree_map_with_path(
        lambda path, _: PARTS[part](jax.tree_util.keystr(path, simple=True, separator="/")), params
    )
    seen = jax.tree.map(lambda x, keep: x if keep else optax.MaskedNode(), params, mask)
    assert blocks_of(seen) == {L}
    state = optax.masked(stratopt(1e-3), mask).init(jax.tree.map(jnp.asarray, params))
    assert state.inner_state[0].gbar.size == sum(counts(seen).values())


@pytest.mark.parametrize(
    ("layers", "line"),
    [
        # Nothing tells a query of 6 layers and a width of 10 from 10 layers and a width of 6.
        ({"attention": {"query": {"kernel": of(10, 6, 2, 4)}}}, {"layers": 1}),
        ({"norm": {"scale": of(6, 10)}}, {"layers": 1}),
    ],
)
def test_two_axes_that_may_be_the_layers_are_a_warning_and_one_line_settles_it(
    layers: Any, line: Any
) -> None:
    with pytest.warns(
        UserWarning, match=r"axis 0, but it may as well be \d+ along axis 1"
    ) as warned:
        assert set(counts({"layers": layers}).values()) == {
            next(iter(jax.tree.leaves(layers))).shape[0]
        }
    assert f"stacked={ {'layers': 0} }" in str(warned[0].message)
    with warnings.catch_warnings(action="error"):
        assert set(counts({"layers": layers}, line).values()) == {
            next(iter(jax.tree.leaves(layers))).shape[1]
        }


AMBIGUOUS = {
    "experts of one layer": {"moe": {"wi": of(8, D, F), "wo": of(8, F, D)}},
    "a vector that all layers share": block(L) | {"shared_bias": of(D)},
    "a matrix that all layers share": block(L) | {"shared": {"mlp": of(D, F)}},
    "attention of the width's size": {"attention": {"query": {"kernel": of(16, 16, 16)}}},
}


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_a_tree_that_can_be_read_in_two_ways_is_refused_with_the_lines_that_settle_it(
    name: str,
) -> None:
    tree = {"layers": AMBIGUOUS[name]}
    with pytest.raises(ValueError, match="'layers' can be read in two ways: as ") as error:
        layout(tree)
    lines = str(error.value).split("with layers=")[1].rstrip(".").split(" or layers=")
    *stacked, single = map(eval, lines)
    assert single == Layers(stacked=())
    assert set(counts(tree, single.stacked).values()) == {1}
    assert all(max(counts(tree, told.stacked).values()) > 1 for told in stacked)
    with pytest.raises(ValueError, match="two ways"):
        stratopt(1e-3).init(jax.tree.map(jnp.asarray, tree))


def test_two_stacks_in_one_container_are_not_taken_for_one_along_the_width() -> None:
    tree = {"embed": of(64, D), "layers": {"encoder": block(3), "decoder": block(2)}}
    tree["layers"] = jax.tree.map(lambda x: x, tree["layers"])
    for part in tree["layers"].values():
        part.pop("attention")
        part["mlp"].pop("down")
    with pytest.raises(ValueError, match=f"as {D} layers stacked along axis 1, or as several"):
        layout(tree)
    told = counts(tree, ("layers/encoder", "layers/decoder"))
    assert set(told.values()) == {1, 2, 3}


def test_stacked_layers_that_agree_on_no_number_are_refused() -> None:
    tree = {"layers": {"norm": of(2, 4), "mlp": of(3, 8, 4)}}
    with pytest.raises(ValueError, match="agree on no number of layers: layers/mlp"):
        layout(tree)
    assert set(counts(tree, ()).values()) == {1}


def test_what_is_declared_stacked_is_stacked() -> None:
    tree = {"decoder": {"Layers": {"mlp": of(4, 3, 5), "norm": of(4, 3)}}}
    assert counts(tree, {"layers": 1}) == {"decoder/Layers/mlp": 3, "decoder/Layers/norm": 3}
    assert counts(tree, ("decoder",)) == {"decoder/Layers/mlp": 4, "decoder/Layers/norm": 4}
    assert counts(tree, ("decoder/layers",)) == {"decoder/Layers/mlp": 4, "decoder/Layers/norm": 4}
    assert counts(tree, ("layers/mlp",)) == {"decoder/Layers/mlp": 4, "decoder/Layers/norm": 1}
    assert counts(tree, ()) == {"decoder/Layers/mlp": 1, "decoder/Layers/norm": 1}
    plain = SUBLAYERS["named sublayers of one width"]
    assert counts(plain, ("layers",))["layers/mlp_a/kernel"] == 16


def test_of_two_containers_of_one_name_a_path_declares_one() -> None:
    tree = {"encoder": {"layers": block(L)}, "decoder": {"layers": [block(), block()]}}
    assert set(counts(tree).values()) == {1, L}
    assert counts(tree, ("encoder/layers",)) == counts(tree)
    with pytest.raises(ValueError, match="stacked names 'decoder/layers', but along axis 0"):
        layout(tree, ("layers",))


@pytest.mark.parametrize(
    ("stacked", "message"),
    [
        (("layers",), "do not all have the same size: layers/down"),
        ({"layers": 1}, "along axis 1"),
        (("layer",), "no module of these parameters is called so; did you mean 'layers'"),
    ],
)
def test_containers_that_cannot_be_stacked_are_refused_when_named(
    stacked: Any, message: str
) -> None:
    tree = {"layers": {"up": of(2, 3), "down": of(3, 2), "scale": of(2)}}
    with pytest.raises(ValueError, match=message):
        layout(tree, stacked)


def test_a_name_that_no_module_has_is_a_warning_since_a_part_of_a_tree_may_lack_it() -> None:
    with pytest.warns(UserWarning, match="stacked names 'h', but no module"):
        assert counts({"embed": of(4, 2)}, ("h",)) == {"embed": 1}
    with warnings.catch_warnings(action="error"):
        assert counts({}, ("h",)) == {}


def test_the_layout_is_a_function_of_the_tree_and_map_params_works() -> None:
    params = jax.tree.map(jnp.asarray, STACKS["the second axis"])
    for tx in (stratopt(1e-3), aardvark(1e-3, clip_mode="per_tensor", second_moment="factored")):
        state = tx.init(params)
        doubled = optax.tree.map_params(tx, lambda x: x + 1, state)
        assert jax.tree.structure(doubled) == jax.tree.structure(state)


@pytest.mark.parametrize(
    "make",
    [
        lambda layers: stratopt(1e-3, layers=layers),
        lambda layers: aardvark(1e-3, clip_mode="per_tensor", nonfinite=None, layers=layers),
    ],
)
def test_a_state_of_another_layout_is_refused(make: Any) -> None:
    params = jax.tree.map(jnp.asarray, model(block(L)))
    state = make(Layers()).init(params)
    with pytest.raises(ValueError, match=r"the state is of \d+ layers, and the gradients have 8"):
        make(Layers(stacked=())).update(params, state, params)


def test_a_leaf_that_is_no_array_is_refused_with_its_path() -> None:
    with pytest.raises(ValueError, match=r"mlp/activation is <.*leave it out, as\s+equinox.filter"):
        describe({"mlp": {"kernel": of(2, 2), "activation": jax.nn.relu}})
