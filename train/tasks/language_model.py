"""The task of a decoder-only language model: `models` on batches of `train.data`."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import models
from train.config.run import Experiment
from train.data import Batch, Dataset, Place, open_dataset
from train.records.kinds import DataSummary
from train.tasks.activations import estimate_activations
from train.tasks.loss import batch_loss
from train.tasks.task import Task


def language_model(experiment: Experiment, dataset: Dataset | None = None) -> Task:
    """The task that an experiment describes: next-token prediction, in nats a token.

    Args:
      experiment: Its model, data, batch size and context; what else it says plays no part.
      dataset: The experiment's open data set; by default it is opened, and prepared if need be,
        when a batch or a fact about the data is first asked for.

    Example:
      >>> from train.config.named import nano
      >>> task = language_model(nano())
      >>> task.name, task.tokens_per_step, task.batch.inputs_BT.shape
      ('2 x 64', 2048, (16, 128))
    """
    model, text = experiment.model, _Text(experiment, dataset)
    return Task(
        name=f"{model.layers} x {model.d_model}",
        init=functools.partial(models.init, model),
        loss=text.loss,
        batch=_abstract_batch(experiment),
        train_batches=text.train_batches,
        validation_batches=text.validation_batches,
        data=text.summary,
        tokens_per_step=experiment.tokens_per_step,
        unit="nats a token",
        bits_per_byte=text.bits_per_byte,
        flops_per_token=models.flops_per_token(model, experiment.context),
        flops_formula=models.FLOPS_FORMULA,
        logical_axes=models.logical_axes(model),
        activation_bytes=functools.partial(estimate_activations, experiment),
        text=text,
    )


class _Text:
    """The data of a language model, opened when they are first needed."""

    def __init__(self, experiment: Experiment, dataset: Dataset | None) -> None:
        self._experiment, self._given = experiment, dataset

    @functools.cached_property
    def _dataset(self) -> Dataset:
        dataset = self._given or open_dataset(self._experiment.data)
        check_vocabulary(self._experiment, dataset)
        return dataset

    def loss(self, params: Any, batch: Batch) -> tuple[Array, Array]:
        """Summed nats, and how many tokens they are of."""
        return batch_loss(self._experiment.model, params, batch, self._experiment.loss_chunk)

    def train_batches(self, *, seed: int, start_step: int = 0, **share: int) -> Iterator[Batch]:
        """As `Task.train_batches`."""
        size, context = self._experiment.batch_size, self._experiment.context
        return self._dataset.train_batches(size, context, seed=seed, start_step=start_step, **share)

    def validation_batches(self, **share: int) -> Iterator[Batch]:
        """As `Task.validation_batches`."""
        size, context = self._experiment.batch_size, self._experiment.context
        most = self._experiment.eval_batches
        return self._dataset.validation_batches(size, context, max_batches=most, **share)

    def summary(self) -> DataSummary:
        """Which text, cut by which tokenizer."""
        dataset = self._dataset
        return DataSummary(
            source=self._experiment.data.source,
            tokenizer=dataset.tokenizer_name,
            fingerprint=dataset.fingerprint,
            bytes_per_token=dataset.bytes_per_token,
            train_tokens=dataset.train_tokens,
        )

    def bits_per_byte(self, nats_per_token: float) -> float:
        """Of the whole validation split exactly; see `Dataset.bytes_per_token`."""
        return nats_per_token / math.log(2) / self._dataset.bytes_per_token

    def token_losses(self, params: Any, batch: Batch) -> Array:
        """As `Text.token_losses`: the loss of a token is what its weight multiplies."""

        def total(weights_BT: Array) -> Array:
            return self.loss(params, batch._replace(weights_BT=weights_BT))[0]

        return jax.grad(total)(batch.weights_BT) * batch.weights_BT

    def row_losses(self, losses_BT: np.ndarray, batch: Batch) -> np.ndarray:
        """As `Text.row_losses`."""
        return losses_BT.sum(axis=1) / np.asarray(batch.weights_BT).sum(axis=1)

    def places(self, *, seed: int, step: int) -> list[tuple[int, tuple[Place, ...]]]:
        """As `Text.places`."""
        size, context = self._experiment.batch_size, self._experiment.context
        return self._dataset.train_places(size, context, seed=seed, step=step)

    def excerpt(self, batch: Batch, row: int, end: int, tokens: int) -> str:
        """As `Text.excerpt`."""
        return self._dataset.tokenizer.decode(batch.targets_BT[row][: end + 1][-tokens:])


def check_vocabulary(experiment: Experiment, dataset: Dataset) -> None:
    """Refuses a model that lacks an embedding for one of the data's tokens.

    Raises:
      ValueError: If the model's vocabulary is smaller than the tokenizer's.
    """
    if experiment.model.vocab_size < dataset.vocab_size:
        raise ValueError(
            f"model.vocab_size={experiment.model.vocab_size} is smaller than the "
            f"{dataset.vocab_size} tokens of {dataset.tokenizer_name}: set --model.vocab-size "
            f"{dataset.vocab_size}."
        )


def _abstract_batch(experiment: Experiment) -> Batch:
    shape = (experiment.batch_size, experiment.context)
    tokens_BT = jax.ShapeDtypeStruct(shape, jnp.int32)
    weights_BT = jax.ShapeDtypeStruct(shape, jnp.float32)
    segment_ids_BT = tokens_BT if experiment.data.packing == "documents" else None
    return Batch(tokens_BT, tokens_BT, weights_BT, segment_ids_BT)
