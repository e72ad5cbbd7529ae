"""Named models, from a byte model that trains on a laptop to the papers' 134 million parameters.

Small presets read bytes; give another vocabulary with `dataclasses.replace`. SwiGLU widths are
about 8/3 of the model width, which matches the parameters of a plain MLP four times as wide.
"""

from collections.abc import Mapping
from types import MappingProxyType

from models.config import TransformerConfig

PRESETS: Mapping[str, TransformerConfig] = MappingProxyType(
    {
        # 0.13M parameters: seconds to a falling loss on two CPU cores.
        "nano": TransformerConfig(
            vocab_size=256, context=128, layers=2, d_model=64, heads=4, d_ff=176
        ),
        # 0.92M.
        "micro": TransformerConfig(
            vocab_size=256, context=256, layers=4, d_model=128, heads=4, d_ff=384
        ),
        # 7.0M.
        "mini": TransformerConfig(
            vocab_size=256, context=512, layers=8, d_model=256, heads=4, d_ff=768
        ),
        # 58M with a vocabulary of 32,000.
        "small": TransformerConfig(
            vocab_size=32_000, context=1024, layers=8, d_model=512, heads=8, d_ff=1408
        ),
        # 134,217,728 in the matrices of the layers: the reading that counts no embeddings.
        "paper_deep": TransformerConfig(
            vocab_size=32_000, context=4096, layers=32, d_model=512, heads=8, d_ff=2048
        ),
        # 134,105,856 in all: the reading that counts everything.
        "paper_wide": TransformerConfig(
            vocab_size=32_000, context=4096, layers=12, d_model=768, heads=12, d_ff=2048
        ),
    }
)
