"""Names of published models' parameters, with shapes like theirs, only smaller."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

LAYERS, VOCABULARY, WIDTH, HIDDEN, HEADS, EXPERTS = 3, 64, 8, 32, 2, 4
HEAD = WIDTH // HEADS
D, F, V = (WIDTH,), (HIDDEN,), (VOCABULARY,)

Shapes = Mapping[str, tuple[int, ...]]


def flat(shapes: Shapes) -> dict[str, jax.ShapeDtypeStruct]:
    """One entry per array; a star stands for the numbers of layers, two stars for experts'."""
    names: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        for layer in range(LAYERS if "*" in name else 1):
            for expert in range(EXPERTS if "**" in name else 1):
                names[name.replace("**", str(expert)).replace("*", str(layer))] = shape
    return {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in names.items()}


def nested(shapes: Shapes) -> dict[str, Any]:
    """Dicts within dicts, by the slashes in the names."""
    tree: dict[str, Any] = {}
    for name, shape in flat(shapes).items():
        node = tree
        *parents, last = name.split("/")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = shape
    return tree


def under(prefix: str, shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {prefix + name: shape for name, shape in shapes.items()}


LLAMA: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": V + D,
    **under(
        "model.layers.*.",
        {
            "self_attn.q_proj.weight": D + D,
            "self_attn.k_proj.weight": (HEAD, *D),
            "self_attn.v_proj.weight": (HEAD, *D),
            "self_attn.o_proj.weight": D + D,
            "self_attn.rotary_emb.inv_freq": (HEAD // 2,),
            "mlp.gate_proj.weight": F + D,
            "mlp.up_proj.weight": F + D,
            "mlp.down_proj.weight": D + F,
            "input_layernorm.weight": D,
            "post_attention_layernorm.weight": D,
        },
    ),
    "model.norm.weight": D,
    "lm_head.weight": V + D,
}

QWEN2 = LLAMA | {f"model.layers.*.self_attn.{name}_proj.bias": D for name in "qkv"}

QWEN3_MOE = {
    **{name: shape for name, shape in LLAMA.items() if ".mlp." not in name},
    "model.layers.*.self_attn.q_norm.weight": (HEAD,),
    "model.layers.*.self_attn.k_norm.weight": (HEAD,),
    "model.layers.*.mlp.gate.weight": (EXPERTS, *D),
    "model.layers.*.mlp.experts.**.gate_proj.weight": F + D,
    "model.layers.*.mlp.experts.**.up_proj.weight": F + D,
    "model.layers.*.mlp.experts.**.down_proj.weight": D + F,
}

GEMMA2 = {
    **{name: shape for name, shape in LLAMA.items() if name != "lm_head.weight"},
    "model.layers.*.pre_feedforward_layernorm.weight": D,
    "model.layers.*.post_feedforward_layernorm.weight": D,
}

LORA = {
    "base_model.model.model.layers.*.self_attn.q_proj.base_layer.weight": D + D,
    "base_model.model.model.layers.*.self_attn.q_proj.lora_A.default.weight": (2, *D),
    "base_model.model.model.layers.*.self_attn.q_proj.lora_B.default.weight": (*D, 2),
    "base_model.model.model.layers.*.mlp.up_proj.lora_A.default.weight": (2, *D),
    "base_model.model.model.layers.*.mlp.up_proj.lora_B.default.weight": (*F, 2),
    "base_model.model.lm_head.lora_A.default.weight": (2, *D),
    "base_model.model.lm_head.lora_B.default.weight": (*V, 2),
}

GPT2 = {
    "transformer.wte.weight": V + D,
    "transformer.wpe.weight": (16, *D),
    **under(
        "transformer.h.*.",
        {
            "ln_1.weight": D,
            "ln_1.bias": D,
            "attn.bias": (1, 1, 16, 16),  # the causal mask, a buffer
            "attn.c_attn.weight": (WIDTH, 3 * WIDTH),
            "attn.c_attn.bias": (3 * WIDTH,),
            "attn.c_proj.weight": D + D,
            "attn.c_proj.bias": D,
            "ln_2.weight": D,
            "ln_2.bias": D,
            "mlp.c_fc.weight": D + F,
            "mlp.c_fc.bias": F,
            "mlp.c_proj.weight": F + D,
            "mlp.c_proj.bias": D,
        },
    ),
    "transformer.ln_f.weight": D,
    "transformer.ln_f.bias": D,
}

PHI = {
    "model.embed_tokens.weight": V + D,
    **under(
        "model.layers.*.",
        {
            **{
                f"self_attn.{name}.weight": D + D
                for name in ("q_proj", "k_proj", "v_proj", "dense")
            },
            **{f"self_attn.{name}.bias": D for name in ("q_proj", "k_proj", "v_proj", "dense")},
            "mlp.fc1.weight": F + D,
            "mlp.fc1.bias": F,
            "mlp.fc2.weight": D + F,
            "mlp.fc2.bias": D,
            "input_layernorm.weight": D,
            "input_layernorm.bias": D,
        },
    ),
    "model.final_layernorm.weight": D,
    "model.final_layernorm.bias": D,
    "lm_head.weight": V + D,
    "lm_head.bias": V,
}

MAMBA = {
    "backbone.embeddings.weight": V + D,
    "backbone.layers.*.norm.weight": D,
    "backbone.layers.*.mixer.A_log": (2 * WIDTH, 16),
    "backbone.layers.*.mixer.D": (2 * WIDTH,),
    "backbone.layers.*.mixer.conv1d.weight": (2 * WIDTH, 1, 4),
    "backbone.layers.*.mixer.conv1d.bias": (2 * WIDTH,),
    "backbone.layers.*.mixer.in_proj.weight": (4 * WIDTH, WIDTH),
    "backbone.layers.*.mixer.out_proj.weight": (WIDTH, 2 * WIDTH),
    "backbone.norm_f.weight": D,
}


def scanned(shapes: Shapes, layers: int = LAYERS) -> dict[str, tuple[int, ...]]:
    """MaxText's layout: the axis of the layers is the second."""
    return {name: (shape[0], layers, *shape[1:]) for name, shape in shapes.items()}


MAXTEXT = {
    "params/token_embedder/embedding": V + D,
    **scanned(
        under(
            "params/decoder/layers/",
            {
                "pre_self_attention_layer_norm/scale": D,
                "self_attention/query/kernel": (*D, HEADS, HEAD),
                "self_attention/key/kernel": (*D, 1, HEAD),
                "self_attention/value/kernel": (*D, 1, HEAD),
                "self_attention/out/kernel": (HEADS, HEAD, *D),
                "post_self_attention_layer_norm/scale": D,
                "mlp/wi_0/kernel": D + F,
                "mlp/wi_1/kernel": D + F,
                "mlp/wo/kernel": F + D,
            },
        )
    ),
    "params/decoder/decoder_norm/scale": D,
    "params/decoder/logits_dense/kernel": D + V,
}

MAXTEXT_MOE = {
    **{name: shape for name, shape in MAXTEXT.items() if "/mlp/" not in name},
    **scanned(
        under(
            "params/decoder/layers/MoeBlock_0/",
            {
                "gate/kernel": (*D, EXPERTS),
                "wi_0": (EXPERTS, *D, *F),
                "wi_1": (EXPERTS, *D, *F),
                "wo": (EXPERTS, *F, *D),
            },
        )
    ),
}

LATENT, ROPE = 6, 5
DEEPSEEK_LAYER: Shapes = {
    "pre_self_attention_layer_norm/scale": D,
    "self_attention/wq_a/kernel": (*D, LATENT),
    "self_attention/q_norm/scale": (LATENT,),
    "self_attention/wq_b/kernel": (LATENT, HEADS, HEAD + ROPE),
    "self_attention/wkv_a/kernel": (*D, LATENT + ROPE),
    "self_attention/kv_norm/scale": (LATENT,),
    "self_attention/wkv_b/kernel": (LATENT, HEADS, 2 * HEAD),
    "self_attention/out/kernel": (HEADS, HEAD, *D),
    "post_self_attention_layer_norm/scale": D,
}
SWIGLU: Shapes = {"wi_0/kernel": D + F, "wi_1/kernel": D + F, "wo/kernel": F + D}

MAXTEXT_DEEPSEEK3 = {
    "params/token_embedder/embedding": V + D,
    **scanned(under("params/decoder/dense_layers/", DEEPSEEK_LAYER | under("mlp/", SWIGLU)), 2),
    **scanned(
        under(
            "params/decoder/moe_layers/",
            {
                **DEEPSEEK_LAYER,
                "DeepSeekMoeBlock_0/MoeBlock_0/gate/kernel": (*D, EXPERTS),
                "DeepSeekMoeBlock_0/MoeBlock_0/gate/bias": (EXPERTS,),
                "DeepSeekMoeBlock_0/MoeBlock_0/wi_0": (EXPERTS, *D, *F),
                "DeepSeekMoeBlock_0/MoeBlock_0/wi_1": (EXPERTS, *D, *F),
                "DeepSeekMoeBlock_0/MoeBlock_0/wo": (EXPERTS, *F, *D),
                **under("DeepSeekMoeBlock_0/shared_experts/", SWIGLU),
            },
        ),
        10,
    ),
    "params/decoder/decoder_norm/scale": D,
    "params/decoder/logits_dense/kernel": D + V,
}

GEMMA3_LAYER: Shapes = {
    "pre_self_attention_norm/scale": D,
    "self_attention/query/kernel": (*D, HEADS, HEAD),
    "self_attention/query_norm/scale": (HEAD,),
    "self_attention/key/kernel": (*D, 1, HEAD),
    "self_attention/key_norm/scale": (HEAD,),
    "self_attention/value/kernel": (*D, 1, HEAD),
    "self_attention/out/kernel": (HEADS, HEAD, *D),
    "post_self_attention_norm/scale": D,
    "pre_ffw_norm/scale": D,
    **under("mlp/", SWIGLU),
    "post_ffw_norm/scale": D,
}

MAXTEXT_GEMMA3 = {
    "params/token_embedder/embedding": V + D,
    **scanned(
        {
            name: shape
            for group in range(6)
            for name, shape in under(f"params/decoder/layers/layers_{group}/", GEMMA3_LAYER).items()
        }
    ),
    # What is left when the number of layers is no multiple of six is not scanned.
    **under("params/decoder/layers_remainder/layers_*/", GEMMA3_LAYER),
    "params/decoder/decoder_norm/scale": D,
}

T5X = {
    "token_embedder/embedding": V + D,
    "decoder/relpos_bias/rel_embedding": (HEADS, 32),
    **under(
        "decoder/layers_*/",
        {
            "pre_self_attention_layer_norm/scale": D,
            **{f"self_attention/{name}/kernel": D + D for name in ("query", "key", "value", "out")},
            "pre_mlp_layer_norm/scale": D,
            "mlp/wi_0/kernel": D + F,
            "mlp/wi_1/kernel": D + F,
            "mlp/wo/kernel": F + D,
        },
    ),
    "decoder/decoder_norm/scale": D,
    "decoder/logits_dense/kernel": D + V,
}

BIG_VISION = {
    "embedding/kernel": (4, 4, 3, *D),
    "embedding/bias": D,
    "pos_embedding": (1, 16, *D),
    "cls": (1, 1, *D),
    **under(
        "Transformer/encoderblock_*/",
        {
            "LayerNorm_0/scale": D,
            "LayerNorm_0/bias": D,
            **{
                f"MultiHeadDotProductAttention_0/{name}/kernel": (*D, HEADS, HEAD)
                for name in ("query", "key", "value")
            },
            **{
                f"MultiHeadDotProductAttention_0/{name}/bias": (HEADS, HEAD)
                for name in ("query", "key", "value")
            },
            "MultiHeadDotProductAttention_0/out/kernel": (HEADS, HEAD, *D),
            "MultiHeadDotProductAttention_0/out/bias": D,
            "LayerNorm_1/scale": D,
            "LayerNorm_1/bias": D,
            "MlpBlock_0/Dense_0/kernel": D + F,
            "MlpBlock_0/Dense_0/bias": F,
            "MlpBlock_0/Dense_1/kernel": F + D,
            "MlpBlock_0/Dense_1/bias": D,
        },
    ),
    "Transformer/encoder_norm/scale": D,
    "Transformer/encoder_norm/bias": D,
    "MAPHead_0/probe": (1, 1, *D),
    "head/kernel": (*D, 10),
    "head/bias": (10,),
}

NANODO = {
    "embed/embedding": V + D,
    "pos_embed/embedding": (16, *D),
    **under(
        "blocks_*/",
        {
            "LayerNorm_0/scale": D,
            **{
                f"CausalAttn_0/{name}/kernel": (*D, HEADS, HEAD)
                for name in ("query", "key", "value")
            },
            "CausalAttn_0/attn_out_proj/kernel": (HEADS, HEAD, *D),
            "LayerNorm_1/scale": D,
            "Mlp_0/Dense_0/kernel": D + F,
            "Mlp_0/Dense_1/kernel": F + D,
        },
    ),
    "out_ln/scale": D,
}

CHECKPOINTS: dict[str, Any] = {
    "hf_llama": flat(LLAMA),
    "hf_llama_nested": nested({name.replace(".", "/"): shape for name, shape in LLAMA.items()}),
    "hf_qwen2": flat(QWEN2),
    "hf_qwen3_moe": flat(QWEN3_MOE),
    "hf_gemma2": flat(GEMMA2),
    "hf_gpt2": flat(GPT2),
    "hf_phi": flat(PHI),
    "hf_lora": flat(LORA),
    "mamba": flat(MAMBA),
    "maxtext": nested(MAXTEXT),
    "maxtext_moe": nested(MAXTEXT_MOE),
    "maxtext_deepseek3": nested(MAXTEXT_DEEPSEEK3),
    "maxtext_gemma3": nested(MAXTEXT_GEMMA3),
    "t5x": nested(T5X),
    "big_vision": nested(BIG_VISION),
    "nanodo": nested(NANODO),
}
