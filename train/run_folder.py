"""What lies in a run's folder: `config.json`, `records.jsonl`, `checkpoints/`; and whose it is."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import models
from train import provenance
from train.config import RunConfig, config_hash, first_difference, to_dict
from train.data import Dataset
from train.optimizer_configs import key
from train.records import DataSummary, FinalRecord, ModelSummary, RunRecord, read_records

CONFIG = "config.json"
RECORDS = "records.jsonl"


def claim(folder: Path, config: RunConfig) -> None:
    """Writes the resolved configuration into a folder, or checks that it is there already.

    Raises:
      ValueError: If the folder holds a run of another configuration; nothing is changed.
    """
    check_owner(folder / CONFIG, config)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / CONFIG, config)


def finished(folder: Path, config: RunConfig) -> FinalRecord | None:
    """The final record of this configuration's run in the folder, or None if it has not ended.

    Raises:
      ValueError: If the folder holds a run of another configuration.
    """
    check_owner(folder / CONFIG, config)
    if not (folder / RECORDS).exists():
        return None
    records = read_records(folder / RECORDS)
    return next((record for record in records if isinstance(record, FinalRecord)), None)


def run_record(config: RunConfig, dataset: Dataset) -> RunRecord:
    """The first line of a run's records."""
    count = models.parameter_count(config.model).total
    name = key(config.optimizer)
    return RunRecord(
        name=f"{name}-s{config.seed}",
        optimizer=name,
        title=type(config.optimizer).__name__,
        seed=config.seed,
        config_hash=config_hash(config),
        commit=provenance.commit(),
        device=provenance.device(),
        device_count=provenance.device_count(),
        versions=provenance.versions(),
        model=ModelSummary(
            name=f"{config.model.layers} x {config.model.d_model}",
            parameters=count,
            flops_per_token=models.flops_per_token(config.model, config.context),
        ),
        data=DataSummary(
            source=config.data.source,
            tokenizer=dataset.tokenizer_name,
            fingerprint=dataset.fingerprint,
            bytes_per_token=dataset.bytes_per_token,
            train_tokens=dataset.train_tokens,
        ),
        batch_size=config.batch_size,
        context=config.context,
        steps=config.steps,
        learning_rate=config.optimizer.learning_rate,
        started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def check_owner(path: Path, config: object) -> None:
    """Refuses a file that holds another configuration.

    Raises:
      ValueError: Naming the first setting that differs.
    """
    if not path.exists():
        return
    difference = first_difference(to_dict(config), json.loads(path.read_text()))
    if difference:
        raise ValueError(
            f"{path.parent} holds another configuration ({difference}): choose another --out, "
            "or move that folder away."
        )


def write_config(path: Path, config: object) -> None:
    """Writes a configuration as JSON; a crash leaves a whole file or none."""
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(to_dict(config), indent=2) + "\n")
    temporary.replace(path)
