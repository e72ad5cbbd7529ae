"""Parameter trees as other people's libraries make them: real modules, and checkpoints by name.

Only shapes are made. `python -m tests.support.libraries` rewrites the tables in tests/golden; read
the difference before you commit it.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
from flax import nnx

from optax_strat import DEFAULT_RULES, Layers, describe
from tests.support import ROOT
from tests.support.checkpoints import CHECKPOINTS

GOLDEN = ROOT / "tests" / "golden"
LAYERS, VOCABULARY, WIDTH, HIDDEN, HEADS = 3, 64, 8, 32, 2
TOKENS = jax.ShapeDtypeStruct((5,), jnp.int32)
KEY = jax.eval_shape(lambda: jax.random.key(0))


class NNXBlock(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.pre_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, rngs=rngs)
        self.post_norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.mlp = nnx.Sequential(
            nnx.Linear(WIDTH, HIDDEN, rngs=rngs), nnx.gelu, nnx.Linear(HIDDEN, WIDTH, rngs=rngs)
        )


class NNXModel(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NNXBlock(rngs) for _ in range(LAYERS)])
        self.final_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.lm_head = nnx.Linear(WIDTH, VOCABULARY, use_bias=False, rngs=rngs)


def nnx_state() -> Any:
    return nnx.state(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))), nnx.Param)


def nnx_scanned() -> Any:
    """Blocks made by `nnx.vmap`, as for `nnx.scan`."""

    @nnx.vmap(in_axes=0, out_axes=0)
    def blocks(key: jax.Array) -> NNXBlock:
        return NNXBlock(nnx.Rngs(key))

    return {
        "blocks": nnx.state(nnx.eval_shape(lambda: blocks(jax.random.split(jax.random.key(0), 3))))
    }


class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, _: Any) -> tuple[jax.Array, None]:
        dense = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(y)
        y = nn.Dense(HIDDEN, kernel_init=dense, name="mlp_up")(nn.LayerNorm()(x))
        return x + nn.Dense(WIDTH, name="mlp_down")(nn.gelu(y)), None


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        x = nn.Embed(VOCABULARY, WIDTH, name="token_embed")(tokens)
        scan = nn.scan(
            LinenBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scan(name="layers")(x, None)
        return nn.Dense(VOCABULARY, name="lm_head")(nn.LayerNorm(name="final_ln")(x))


def linen_scanned() -> Any:
    """Some parameters in boxes, with names of axes."""
    return jax.eval_shape(LinenModel().init, KEY, TOKENS)


class LinenCNN(nn.Module):
    """The convolutional network of Flax's first example: no name but those that Flax gives."""

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:
        for features in (32, 64):
            image = nn.avg_pool(nn.relu(nn.Conv(features, (3, 3))(image)), (2, 2), (2, 2))
        return nn.Dense(10)(nn.relu(nn.Dense(256)(image.reshape(-1))))


def linen_cnn() -> Any:
    return jax.eval_shape(LinenCNN().init, KEY, jax.ShapeDtypeStruct((28, 28, 1), jnp.float32))


class EquinoxBlock(eqx.Module):
    norm1: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    norm2: eqx.nn.LayerNorm
    mlp: eqx.nn.MLP

    def __init__(self, key: jax.Array):
        self.norm1 = eqx.nn.LayerNorm(WIDTH)
        self.attention = eqx.nn.MultiheadAttention(HEADS, WIDTH, use_output_bias=True, key=key)
        self.norm2 = eqx.nn.LayerNorm(WIDTH)
        self.mlp = eqx.nn.MLP(WIDTH, WIDTH, HIDDEN, depth=1, key=key)


class EquinoxModel(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: Any
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key: jax.Array, stacked: bool):
        keys = jax.random.split(key, LAYERS)
        self.embedding = eqx.nn.Embedding(VOCABULARY, WIDTH, key=key)
        self.blocks = (
            eqx.filter_vmap(EquinoxBlock)(keys) if stacked else list(map(EquinoxBlock, keys))
        )
        self.norm = eqx.nn.LayerNorm(WIDTH)
        self.head = eqx.nn.Linear(WIDTH, VOCABULARY, use_bias=False, key=key)


def equinox(stacked: bool) -> Any:
    """What `eqx.filter` leaves of a module: None where there was no array."""
    model = eqx.filter_eval_shape(EquinoxModel, KEY, stacked)
    return eqx.filter(model, lambda x: isinstance(x, jax.ShapeDtypeStruct))


def haiku(stacked: bool) -> Any:
    """A transformer with as few names as its author had to give."""

    def block(x: jax.Array) -> jax.Array:
        y = hk.RMSNorm(-1)(x)
        x = x + hk.MultiHeadAttention(
            HEADS, WIDTH // HEADS, w_init=hk.initializers.VarianceScaling()
        )(y, y, y)
        return x + hk.nets.MLP([HIDDEN, WIDTH])(hk.RMSNorm(-1)(x))

    def model(tokens: jax.Array) -> jax.Array:
        x = hk.Embed(VOCABULARY, WIDTH)(tokens)
        x += hk.get_parameter("positional_embeddings", x.shape, init=jnp.zeros)
        if stacked:
            x = hk.experimental.layer_stack(LAYERS)(block)(x)
        else:
            for _ in range(LAYERS):
                x = block(x)
        return hk.Linear(VOCABULARY, name="logits")(hk.LayerNorm(-1, True, True)(x))

    return jax.eval_shape(hk.transform(model).init, KEY, TOKENS)


LIBRARIES: dict[str, Callable[[], Any]] = {
    "flax_nnx": nnx_state,
    "flax_nnx_scanned": nnx_scanned,
    "flax_linen_scanned": linen_scanned,
    "flax_linen_cnn": linen_cnn,
    "equinox": lambda: equinox(stacked=False),
    "equinox_stacked": lambda: equinox(stacked=True),
    "haiku": lambda: haiku(stacked=False),
    "haiku_layer_stack": lambda: haiku(stacked=True),
    **{name: lambda tree=tree: tree for name, tree in CHECKPOINTS.items()},
}
LAYERS_OF = {
    "mamba": Layers(rules=(*DEFAULT_RULES, ("mixer", "mixer"))),
    "flax_linen_cnn": Layers(
        rules=(*DEFAULT_RULES, (r"Conv(_?\d+)?", "conv"), (r"Dense(_?\d+)?", "dense"))
    ),
}
"""For what the default rules do not know."""


def table(name: str) -> str:
    return f"{describe(LIBRARIES[name](), layers=LAYERS_OF.get(name, Layers()))}\n"


if __name__ == "__main__":
    for name in LIBRARIES:
        (GOLDEN / f"{name}.txt").write_text(table(name), encoding="utf-8")
