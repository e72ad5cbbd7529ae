"""Whether a model knows all tokens of a data set."""

from __future__ import annotations

from train.config.run import Experiment
from train.data import Dataset


def check_vocabulary(config: Experiment, dataset: Dataset) -> None:
    """Refuses a model that lacks an embedding for one of the data's tokens.

    Raises:
      ValueError: If the model's vocabulary is smaller than the tokenizer's.
    """
    if config.model.vocab_size < dataset.vocab_size:
        raise ValueError(
            f"model.vocab_size={config.model.vocab_size} is smaller than the {dataset.vocab_size} "
            f"tokens of {dataset.tokenizer_name}: set --model.vocab-size {dataset.vocab_size}."
        )
