"""The same model with a tree of its own for every layer, as most code stores it, for comparison."""

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

import models
from models.layers import Block
from train.data import Batch
from train.tasks.loss import cross_entropy


class UnrolledTransformer(models.Transformer):
    """Blocks in a list instead of one block whose parameters have a leading dimension."""

    def __init__(self, config: models.TransformerConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.layers = nnx.List([Block(config, rngs=rngs) for _ in range(config.layers)])

    def _run_layers(self, x_BTD: jax.Array, *given: Any) -> jax.Array:
        for block in self.layers:
            x_BTD = block(x_BTD, *given)
        return x_BTD


def init(config: models.TransformerConfig, key: jax.Array) -> Any:
    """Initial parameters, a dict for every layer."""
    model = UnrolledTransformer(config, rngs=nnx.Rngs(params=key))
    return nnx.to_pure_dict(nnx.state(model, nnx.Param))


def train_step(
    config: models.TransformerConfig, tx: optax.GradientTransformation
) -> Callable[..., Any]:
    """`(params, opt_state, batch) -> (params, opt_state, loss)` over such a tree, not jitted."""
    graph, _ = jax.eval_shape(
        lambda: nnx.split(UnrolledTransformer(config, rngs=nnx.Rngs(params=0)), nnx.Param)
    )

    def mean_loss(params: Any, batch: Batch) -> jax.Array:
        logits_BTV = nnx.merge(graph, params)(batch.inputs_BT)
        total, weight = cross_entropy(logits_BTV, batch.targets_BT, batch.weights_BT)
        return total / weight

    def step(params: Any, opt_state: Any, batch: Batch) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(mean_loss)(params, batch)
        updates, opt_state = tx.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    return step
