# %% [markdown]
# # Layer types
#
# You will see which part of the network each parameter is taken for, in our model and in those of
# five other libraries, and teach the rules a name that they do not know.
#
# Shapes are enough for all of it, so nothing here allocates a model.

# %%
import equinox as eqx
import flax.linen as nn
import haiku as hk
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import treescope
from flax import nnx
from IPython.display import HTML

from models import PRESETS, init
from optax_strat import DEFAULT_RULES, Layers, aardvark, describe, layer_types, strata_names

WIDTH, HIDDEN, HEADS, LAYERS, VOCABULARY = 64, 256, 4, 3, 512
KEY = jax.eval_shape(lambda: jax.random.key(0))
TOKENS = jax.ShapeDtypeStruct((16,), jnp.int32)

# %% [markdown]
# ## Our model
#
# {py:func}`~optax_strat.describe` prints one row for each array. The layers of this model are
# stacked: `2×64×176` is two matrices, and *layers* counts both. Each slice has its own norm, clip
# and scaling factor.

# %%
params = jax.eval_shape(lambda: init(PRESETS["nano"], jax.random.key(0)))
print(describe(params))

# %% [markdown]
# {py:func}`~optax_strat.layer_types` gives the labels as a tree of the same structure. Treescope
# makes trees that unfold:

# %%


def show(tree, **options):
    """Each array's layer type and shape, in its place in the tree."""
    labels = layer_types(tree, **options)
    labels = jax.tree.map(lambda kind, array: f"{kind} {array.shape}", labels, tree)
    return HTML(treescope.render_to_html(labels))


show(params)

# %% [markdown]
# StratOpt's vectors have one entry for each layer, in the order of
# {py:func}`~optax_strat.strata_names`:

# %%
print(*strata_names(params)[:6], sep="\n")

# %% [markdown]
# ## Who owns the parameters
#
# Aardvark's multipliers act on types, so what they do to a model depends on how much of it is of
# each type.


# %%
def shares(tree):
    """The share of each layer type in a model's parameters."""
    total = {}
    for row in describe(tree).rows:
        total[row.type] = total.get(row.type, 0) + row.share
    return total


trees = {
    name: jax.eval_shape(lambda config=config: init(config, jax.random.key(0)))
    for name, config in PRESETS.items()
}
figure, axes = plt.subplots(figsize=(7.2, 2.6))
left = np.zeros(len(trees))
for kind in ("embedding", "attention", "mlp", "head"):
    widths = np.array([100 * shares(tree)[kind] for tree in trees.values()])
    bars = axes.barh(list(trees), widths, left=left)
    color = bars[0].get_facecolor()
    axes.text(left[0] + widths[0] / 2, -0.6, kind, ha="center", color=color, fontweight="bold")
    left += widths
axes.invert_yaxis()
axes.grid(axis="y", visible=False)
axes.set(xlim=(0, 100), xlabel="% of all parameters")
axes.set_title("Share of each layer type in the presets of models/", pad=18)
plt.show()

# %% [markdown]
# With a vocabulary of 32,000 a narrow model (`small`) is more embedding and head than anything
# else; the papers' deep reading is four fifths matrices of its layers. Scales of norms are too few
# to be seen, at most 0.3 %.
#
# ## Flax NNX
#
# Paths are read, never classes: the labels are the same for parameters, gradients and moments.


# %%
class NNXBlock(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, rngs=rngs)
        self.mlp = nnx.Linear(WIDTH, WIDTH, rngs=rngs)


class NNXModel(nnx.Module):
    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.blocks = nnx.List([NNXBlock(rngs) for _ in range(LAYERS)])
        self.final_norm = nnx.RMSNorm(WIDTH, rngs=rngs)
        self.lm_head = nnx.Linear(WIDTH, VOCABULARY, use_bias=False, rngs=rngs)


state = nnx.state(nnx.eval_shape(lambda: NNXModel(nnx.Rngs(0))), nnx.Param)
print(describe(state))
show(state)

# %% [markdown]
# Numbered layers are folded into one row, `blocks/0..2`: three arrays, three layers.
#
# ## Flax Linen, scanned
#
# `nn.scan` stacks the layers. The container `layers` is known by its name, and its slices are
# counted.


# %%
class LinenBlock(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        x = x + nn.MultiHeadDotProductAttention(HEADS, name="attention")(nn.LayerNorm()(x))
        y = nn.Dense(HIDDEN, name="mlp_up")(nn.LayerNorm()(x))
        return x + nn.Dense(WIDTH, name="mlp_down")(nn.gelu(y)), None


class LinenModel(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        x = nn.Embed(VOCABULARY, WIDTH, name="token_embed")(tokens)
        axes, rngs = {"params": 0}, {"params": True}
        layers = nn.scan(LinenBlock, variable_axes=axes, split_rngs=rngs, length=LAYERS)
        x, _ = layers(name="layers")(x, None)
        return nn.Dense(VOCABULARY, use_bias=False, name="lm_head")(x)


linen_params = jax.eval_shape(LinenModel().init, KEY, TOKENS)
print(describe(linen_params))
show(linen_params)

# %% [markdown]
# ## Equinox
#
# `eqx.filter` leaves `None` where a module holds no array; such leaves are skipped.


# %%
class EquinoxModel(eqx.Module):
    embedding: eqx.nn.Embedding
    blocks: list
    head: eqx.nn.Linear

    def __init__(self, key):
        self.embedding = eqx.nn.Embedding(VOCABULARY, WIDTH, key=key)
        self.blocks = [
            {"norm": eqx.nn.LayerNorm(WIDTH), "mlp": eqx.nn.MLP(WIDTH, WIDTH, HIDDEN, 1, key=key)}
            for _ in range(LAYERS)
        ]
        self.head = eqx.nn.Linear(WIDTH, VOCABULARY, use_bias=False, key=key)


module = eqx.filter_eval_shape(EquinoxModel, KEY)
arrays = eqx.filter(module, lambda x: isinstance(x, jax.ShapeDtypeStruct))
print(describe(arrays))
show(arrays)

# %% [markdown]
# ## Haiku
#
# Haiku names what its author does not. `multi_head_attention` and `mlp` tell enough; a lone
# `linear` does not.


# %%
def haiku_model(tokens):
    x = hk.Embed(VOCABULARY, WIDTH)(tokens)
    attention = hk.MultiHeadAttention(HEADS, WIDTH // HEADS, w_init=hk.initializers.Orthogonal())
    x = x + attention(x, x, x)
    x = x + hk.Linear(WIDTH)(jax.nn.relu(x))
    return hk.Linear(VOCABULARY, name="logits")(x)


haiku_params = jax.eval_shape(hk.transform(haiku_model).init, KEY, TOKENS)
try:
    layer_types(haiku_params)
except ValueError as error:
    print(error)

# %% [markdown]
# A name that no rule knows is an error, never a silent multiplier of 1. The message says what to
# write:

# %%
layers = Layers(rules=(*DEFAULT_RULES, (r"linear(_?\d+)?", "mlp")))
optimizer = aardvark(3e-4, layers=layers)
print(describe(haiku_params, layers=layers))
show(haiku_params, layers=layers)

# %% [markdown]
# ## Names of Hugging Face
#
# A checkpoint is often a flat dict whose keys are dotted paths. Dots separate as slashes do.


# %%
def shape(*dims):
    return jax.ShapeDtypeStruct(dims, jnp.float32)


llama = {"model.embed_tokens.weight": shape(VOCABULARY, WIDTH)}
for layer in range(LAYERS):
    prefix = f"model.layers.{layer}"
    llama |= {f"{prefix}.self_attn.{name}_proj.weight": shape(WIDTH, WIDTH) for name in "qkvo"}
    llama |= {f"{prefix}.mlp.{name}_proj.weight": shape(HIDDEN, WIDTH) for name in ("gate", "up")}
    llama |= {f"{prefix}.mlp.down_proj.weight": shape(WIDTH, HIDDEN)}
    norms = ("input_layernorm", "post_attention_layernorm")
    llama |= {f"{prefix}.{name}.weight": shape(WIDTH) for name in norms}
llama |= {"model.norm.weight": shape(WIDTH), "lm_head.weight": shape(VOCABULARY, WIDTH)}
print(describe(llama))
show(llama)

# %% [markdown]
# `post_attention_layernorm` has *attention* in its name and is a norm: the rules for what
# rescales come first.
#
# ## What to change next
#
# - Put your own tree into `describe(...)`, and read the columns *type* and *decay* before you
#   train.
# - Add a rule in front of `DEFAULT_RULES` to overrule, with a type of your own:
#   `Layers(rules=(("mlp/gate", "gate"), *DEFAULT_RULES))`.
# - Stack your layers under another name than `layers` or `blocks`, and say
#   `Layers(stacked=("decoder",))`.
