"""The dimensions that form matrices in MaxText's models.

Those that its own tests wanted (`tests/unit/muon_test.py` until March 2026) are written in its way:
axes from the end, so that they mean the same scanned and not.
"""

from typing import Any

import jax
import numpy as np
import pytest

from tests.optax_strat.test_matrices import sides

D, F, V, N, K, H, E, L = 8, 32, 64, 2, 1, 4, 5, 3
MOE_L, Q_RANK, KV_RANK = 10, 6, 7

PLAIN, FROM_D, TO_D, EXPERTS = ((0,), (-1,)), ((0,), (-2, -1)), ((0, -2), (-1,)), ((-2,), (-1,))
Expected = dict[str, tuple[tuple[int, ...], Any]]


def attention(*layers: int, name: str = "self_attention") -> Expected:
    """Shapes and dimensions of attention, with the number of layers after the first dimension."""
    return {
        f"{name}/query/kernel": ((D, *layers, N, H), FROM_D),
        f"{name}/key/kernel": ((D, *layers, K, H), FROM_D),
        f"{name}/value/kernel": ((D, *layers, K, H), FROM_D),
        f"{name}/out/kernel": ((N, *layers, H, D), TO_D),
        f"{name}/query_norm/scale": ((H, *layers), None),
    }


def latent_attention(*layers: int) -> Expected:
    """DeepSeek's."""
    return {
        "self_attention/wq_a/kernel": ((D, *layers, Q_RANK), PLAIN),
        "self_attention/q_norm/scale": ((Q_RANK, *layers), None),
        "self_attention/wq_b/kernel": ((Q_RANK, *layers, N, H), FROM_D),
        "self_attention/wkv_a/kernel": ((D, *layers, KV_RANK), PLAIN),
        "self_attention/kv_norm/scale": ((KV_RANK, *layers), None),
        "self_attention/wkv_b/kernel": ((KV_RANK, *layers, N, 9), FROM_D),
        "self_attention/out/kernel": ((N, *layers, H, D), TO_D),
    }


def mlp(*layers: int, name: str = "mlp") -> Expected:
    return {
        f"{name}/wi_0/kernel": ((D, *layers, F), PLAIN),
        f"{name}/wi_1/kernel": ((D, *layers, F), PLAIN),
        f"{name}/wo/kernel": ((F, *layers, D), PLAIN),
    }


def experts(*layers: int, name: str) -> Expected:
    return {
        f"{name}/wi_0": ((E, *layers, D, F), EXPERTS),
        f"{name}/wi_1": ((E, *layers, D, F), EXPERTS),
        f"{name}/wo": ((E, *layers, F, D), EXPERTS),
        f"{name}/gate/kernel": ((D, *layers, E), PLAIN),
    }


def norm(*layers: int) -> Expected:
    return {"pre_self_attention_layer_norm/scale": ((D, *layers), None)}


def under(container: str, *parts: Expected) -> Expected:
    return {f"decoder/{container}/{path}": value for part in parts for path, value in part.items()}


OUTSIDE: Expected = {
    "token_embedder/embedding": ((V, D), None),
    "decoder/decoder_norm/scale": ((D,), None),
    "decoder/logits_dense/kernel": ((D, V), None),
}
DEEPSEEK_MOE = {
    **experts(MOE_L, name="DeepSeekMoeBlock_0/MoeBlock_0"),
    "DeepSeekMoeBlock_0/MoeBlock_0/gate/bias": ((E, MOE_L), None),
    **mlp(MOE_L, name="DeepSeekMoeBlock_0/shared_experts"),
}
GEMMA3_NORMS: Expected = {"pre_ffw_norm/scale": ((D, L), None)}

MAXTEXT: dict[str, Expected] = {
    "Llama 3": OUTSIDE | under("layers", attention(L), mlp(L), norm(L)),
    "Gemma 3": OUTSIDE
    | {
        path: value
        for group in range(6)
        for path, value in under(
            f"layers/layers_{group}", attention(L), mlp(L), GEMMA3_NORMS
        ).items()
    }
    | under("layers_remainder/layers_0", attention(), mlp()),
    "DeepSeek 3": OUTSIDE
    | under("dense_layers", latent_attention(L), mlp(L), norm(L))
    | under("moe_layers", latent_attention(MOE_L), DEEPSEEK_MOE, norm(MOE_L)),
    "DeepSeek 2": OUTSIDE
    | under("dense_layers", attention(L), mlp(L), norm(L))
    | under("moe_layers", attention(MOE_L), DEEPSEEK_MOE, norm(MOE_L)),
    "DeepSeek 3, unscanned": OUTSIDE
    | under("dense_layers_0", latent_attention(), mlp(), norm())
    | under("moe_layers_0", latent_attention(), norm()),
    "Qwen 3 Next": {
        path: value
        for layer in range(3)
        for path, value in under(
            f"layers/layer_{layer}",
            {
                "input_layernorm/scale": ((D, L), None),
                "attention/A_log": ((N, L), None),
                "attention/conv1d/kernel": ((4, L, 1, 24), None),
                "attention/dt_bias": ((N, L), None),
                "attention/in_proj_qkvz/kernel": ((D, L, 40), PLAIN),
                "attention/norm/rms_norm/scale": ((H, L), None),
                "attention/out_proj/kernel": ((9, L, D), PLAIN),
            },
            experts(L, name="mlp/routed_experts"),
            mlp(L, name="mlp/shared_expert"),
            {"mlp/shared_expert_gate/kernel": ((D, L, 1), PLAIN)},
        ).items()
    }
    | under(
        "layers/layer_3",
        attention(L, name="attention/attention"),
        # Its heads and their dimensions are one dimension already.
        {"attention/attention/out/kernel": ((N * H, L, D), PLAIN)},
        {"input_layernorm/scale": ((D, L), None)},
    ),
}

UNTESTED_THERE: dict[str, Expected] = {
    "Mixtral": under("layers", attention(L), experts(L, name="MoeBlock_0"), norm(L)),
    "Qwen 3 MoE": under("layers", attention(L), experts(L, name="moe_block"), norm(L)),
    "Gemma 2": under(
        "layers",
        attention(L, name="self_attention_local"),
        attention(L, name="self_attention_global"),
        mlp(L, name="mlp_local"),
        {"pre_self_attention_norm_local/scale": ((D, L), None)},
    ),
    "GPT-OSS": {
        path: value
        for group in range(2)
        for path, value in under(
            f"layers/layers_{group}",
            attention(L, name="GptOssAttention"),
            {
                "GptOssAttention/query/bias": ((N, L, H), None),
                "GptOssAttention/sinks": ((N, L), None),
                "GptOssMlp/wi_0_bias": ((E, L, F), None),
                "GptOssMlp/wo_bias": ((E, L, D), None),
            },
            experts(L, name="GptOssMlp"),
            norm(L),
        ).items()
    },
    "Llama with fused kernels": under(
        "layers",
        {
            "self_attention/qkv_proj/kernel": ((D, L, N + 2 * K, H), FROM_D),
            "self_attention/out/kernel": ((N, L, H, D), TO_D),
            "mlp/wi/kernel": ((D, L, 2, F), PLAIN),
            "mlp/wo/kernel": ((F, L, D), PLAIN),
        },
        norm(L),
    ),
    "DeepSeek 4": under(
        "layers",
        {
            "self_attention/wkv/kernel": ((D, L, 1, H), FROM_D),
            "self_attention/o_a_proj/kernel": ((N, L, H, 6), EXPERTS),
            "self_attention/o_b_proj/kernel": ((12, L, D), PLAIN),
            "mhc_mlp/res_beta": ((4, L, 4), None),
        },
        norm(L),
    ),
    "a vision encoder with Moe in its name": {
        "vision_encoder/Qwen3OmniMoeVisionEncoder_0/blocks_0/attn/attn/query/kernel": (
            (D, N, H),
            FROM_D,
        ),
        "vision_encoder/Qwen3OmniMoeVisionEncoder_0/blocks_0/mlp/kernel": ((D, F), PLAIN),
        "audio_encoder/conv2d1/kernel": ((3, 3, 1, D), None),
    },
}
"""Where MaxText has no such test, and its rule takes layers, heads or biases for other things."""


def tree_of(expected: Expected) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, (shape, _) in expected.items():
        *modules, name = path.split("/")
        module = tree
        for part in modules:
            module = module.setdefault(part, {})
        module[name] = jax.ShapeDtypeStruct(shape, np.float32)
    return tree


@pytest.mark.parametrize("model", [*MAXTEXT, *UNTESTED_THERE])
def test_maxtexts_models_have_the_matrices_that_its_tests_want(model: str) -> None:
    expected = (MAXTEXT | UNTESTED_THERE)[model]
    assert sides(tree_of(expected)) == {
        path: wanted and tuple(tuple(sorted(axis % len(shape) for axis in side)) for side in wanted)
        for path, (shape, wanted) in expected.items()
    }
