"""A run goes on with other devices and processes: the same data in the same order, equal losses."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
from pathlib import Path

import numpy as np
import pytest

from tests.support import tiny
from tests.support.torture import TINY, finish, further, started
from train.config.plain import config_hash
from train.config.run import MeshConfig
from train.host.signals import Interrupted
from train.records.lines import EvalRecord, StepRecord, read_records
from train.run.folder import claim
from train.run.train import train
from train.step.program import build_program
from train.tasks import task_of

pytestmark = pytest.mark.faults

MESHES = (
    (8, "--mesh.fsdp 8"),
    (4, "--mesh.fsdp 4"),
    (2, "--mesh.tensor 2"),
    (1, ""),
    (8, "--mesh.fsdp 2 --mesh.tensor 2"),
)
COMMAND = [
    "run", "nano", *TINY, "--log-every", "1", "--steps", "200", "--checkpoint-every", "200",
    "--out", "run",
]  # fmt: skip


def losses_of(run: Path) -> list[tuple[int, float]]:
    records = read_records(run / "records.jsonl")
    return [(r.step, r.loss) for r in records if isinstance(r, StepRecord | EvalRecord)]


def assert_same_losses(run: Path, undisturbed: Path) -> None:
    """The losses of all steps, none of them lost or told twice; so the batches were the same."""
    ours, theirs = losses_of(run), losses_of(undisturbed)
    assert [step for step, _ in ours] == [step for step, _ in theirs]
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_the_mesh_is_no_part_of_what_a_run_is(tmp_path):
    config = tiny.run_config(tmp_path)
    sharded = dataclasses.replace(config, mesh=MeshConfig(fsdp=4, tensor=2, axes="explicit"))
    assert config_hash(sharded) == config_hash(config)
    claim(tmp_path / "run", config)
    claim(tmp_path / "run", sharded)
    with pytest.raises(ValueError, match="steps: 13 here, 12 there"):
        claim(tmp_path / "run", dataclasses.replace(sharded, steps=13))


@pytest.mark.slow
def test_a_run_goes_on_where_another_mesh_stopped(tmp_path):
    config = tiny.run_config(tmp_path / "cache", log_every=1)
    program = build_program(config, task_of(config))
    train(config, tmp_path / "undisturbed", program=program)

    def stop(progress):
        if progress.step == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    sharded = dataclasses.replace(config, mesh=MeshConfig(fsdp=4, tensor=2))
    with pytest.raises(Interrupted):
        train(sharded, tmp_path / "run", on_progress=stop)
    train(config, tmp_path / "run", program=program)
    assert_same_losses(tmp_path / "run", tmp_path / "undisturbed")


@pytest.mark.torture
@pytest.mark.parametrize("optimizer", ["adamw", "stratopt", "aardvark"])
def test_a_run_goes_on_with_eight_four_two_one_and_eight_devices(optimizer, tmp_path):
    run, undisturbed = tmp_path / "meshes" / "run", tmp_path / "undisturbed"
    run.parent.mkdir()
    undisturbed.mkdir()
    finish(undisturbed, *COMMAND, f"optimizer:{optimizer}")
    *first, (devices, mesh) = MESHES
    for some, other_mesh in first:
        words = [*COMMAND, *other_mesh.split(), f"optimizer:{optimizer}"]
        with started(run.parent, *words, devices=some) as process:
            process.until(further(run, steps=9)).send(signal.SIGTERM)
            assert_stopped(*process.ended())
    finish(run.parent, *COMMAND, *mesh.split(), f"optimizer:{optimizer}", devices=devices)
    assert_same_losses(run, undisturbed / "run")
    final = read_records(run / "records.jsonl")[-1]
    assert final.seconds < final.device_seconds < 8 * final.seconds  # Some were on fewer than 8.


def assert_stopped(status: int, printed: str) -> None:
    assert status == 0, printed
    assert "stopped by SIGTERM after step" in printed


@pytest.mark.torture
def test_two_processes_go_on_as_one_and_as_two_again(tmp_path):
    run, undisturbed = tmp_path / "processes" / "run", tmp_path / "undisturbed"
    run.parent.mkdir()
    undisturbed.mkdir()
    finish(undisturbed, *COMMAND)
    with two_processes(run.parent, "--mesh.fsdp", "8", devices=4) as (first, second):
        first.until(further(run, steps=9))
        second.send(signal.SIGTERM)
        assert_stopped(*first.ended())
        assert second.ended()[0] == 0
    with started(run.parent, *COMMAND, "--mesh.fsdp", "4", devices=4) as process:
        process.until(further(run, steps=9)).send(signal.SIGTERM)
        assert_stopped(*process.ended())
    with two_processes(run.parent, "--mesh.fsdp", "2", devices=1) as (first, second):
        assert [process.ended()[0] for process in (first, second)] == [0, 0]
    assert_same_losses(run, undisturbed / "run")


@contextlib.contextmanager
def two_processes(folder: Path, *words: str, devices: int):
    """Two processes of one run, each with so many devices."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    hosts = f"--hosts.coordinator 127.0.0.1:{port} --hosts.process-count 2 --hosts.process-id"
    command = [*COMMAND, *words, *hosts.split()]
    with (
        started(folder, *command, "0", devices=devices) as first,
        started(folder, *command, "1", devices=devices) as second,
    ):
        yield first, second
