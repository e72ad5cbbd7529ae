"""Short runs of the nano comparison, one JSON line each, kept so that a second call goes on."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from train import provenance
from train.config import RunConfig
from train.data import Dataset
from train.loop import StuckError, train
from train.optimizer_configs import key

RESULTS = Path(__file__).parent.parent / "results"


def read(path: Path) -> list[dict[str, Any]]:
    """The rows that earlier calls wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(path: Path, config: RunConfig, dataset: Dataset, **about: Any) -> dict[str, Any]:
    """Trains once and appends the validation loss; None stands for a run that diverged."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            loss = train(config, Path(folder), dataset=dataset).val_loss
        except StuckError:
            loss = None
    row = {
        "optimizer": key(config.optimizer),
        **about,
        "learning_rate": config.optimizer.learning_rate,
        "val_loss": loss,
        "steps": config.steps,
        "tokens": config.steps * config.tokens_per_step,
        "seed": config.seed,
        "data": dataset.fingerprint,
        "commit": provenance.commit(),
        "device": provenance.device(),
    }
    print(
        *(f"{name}={row[name]}" for name in ("optimizer", *about, "seed", "val_loss")), flush=True
    )
    with path.open("a") as file:
        file.write(json.dumps(row) + "\n")
    return row
