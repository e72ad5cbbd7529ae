"""Sources of text -> tokens on disk -> packed, shifted batches.

data = open_dataset(DataConfig(source="stdlib"))
for batch in data.train_batches(batch_size=16, context=128, seed=0):
    ...
"""

from train.data.batches.rows import Batch
from train.data.config import DataConfig
from train.data.dataset import Dataset, Place, open_dataset
from train.data.documents import DataError, Done
from train.data.preparing.preparation import prepare
from train.data.preparing.shards import Manifest

__all__ = [
    "Batch",
    "DataConfig",
    "DataError",
    "Dataset",
    "Done",
    "Manifest",
    "Place",
    "open_dataset",
    "prepare",
]
