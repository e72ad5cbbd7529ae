"""Several processes train as one: what they compute, what they write, and when they stop."""

import dataclasses
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.support import ROOT
from train.config import named
from train.config.run import MeshConfig, ScheduleConfig
from train.data import DataConfig
from train.host.distributed import refuse_several_processes
from train.records.lines import EvalRecord, FinalRecord, RunRecord, StepRecord, read_records
from train.run.train import train

FLAGS = shlex.split(
    "--steps 12 --batch-size 8 --context 16 --log-every 2 --eval-every 4 --eval-batches 2 "
    "--checkpoint-every 4 --schedule.warmup-steps 3 --data.source synthetic "
    "--model.layers 1 --mesh.fsdp 8"
)


def config_of(folder):
    """The configuration of `FLAGS`: parameters and batches are shared between two processes."""
    return dataclasses.replace(
        named.nano(),
        model=dataclasses.replace(named.NANO, layers=1),
        data=DataConfig(source="synthetic", cache_dir=str(folder / "data")),
        schedule=ScheduleConfig(warmup_steps=3),
        mesh=MeshConfig(fsdp=8),
        steps=12, batch_size=8, context=16, log_every=2, eval_every=4, eval_batches=2,
        checkpoint_every=4,
    )  # fmt: skip


STARTED: list[subprocess.Popen] = []


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_running():
    yield
    for process in STARTED:
        process.kill()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Data and compiled programs that the tests share."""
    return tmp_path_factory.mktemp("hosts")


@pytest.fixture(scope="module")
def alone(folder):
    """The run of one process with eight devices."""
    train(config_of(folder), folder / "alone")
    return folder / "alone"


@pytest.fixture(scope="module")
def together(folder):
    """The same run of two processes with four devices each, and what they printed."""
    processes = start_two(folder, "--out", "together")
    printed = [output_of(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    return folder / "together", printed


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, *arguments):
    """`python -m train run nano` with four devices."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=4")
    process = subprocess.Popen(
        [sys.executable, "-m", "train", "run", "nano", *arguments],
        cwd=folder,
        env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT), "COLUMNS": "300"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.append(process)
    return process


def start_two(folder, *arguments, of_second=()):
    address = f"127.0.0.1:{free_port()}"
    hosts = ["--hosts.coordinator", address, "--hosts.process-count", "2", "--hosts.process-id"]
    flags = [*FLAGS, "--data.cache-dir", str(folder / "data"), *arguments]
    return start(folder, *flags, *hosts, "0"), start(folder, *flags, *of_second, *hosts, "1")


def output_of(process):
    return process.communicate(timeout=120)


def losses_of(folder):
    return np.array(
        [
            (record.step, record.loss)
            for record in read_records(folder / "records.jsonl")
            if isinstance(record, StepRecord | EvalRecord)
        ]
    )


def forget_the_end(folder, copy):
    """A copy of a finished run as a crash before the last checkpoint would have left it."""
    shutil.copytree(folder, copy)
    shutil.rmtree(copy / "checkpoints" / "12")
    lines = (copy / "records.jsonl").read_bytes().splitlines(keepends=True)
    (copy / "records.jsonl").write_bytes(b"".join(lines[:-1]))
    return copy


def test_two_processes_train_as_one_with_their_devices_does(alone, together):
    np.testing.assert_allclose(losses_of(together[0]), losses_of(alone), rtol=1e-5)


def test_the_first_process_alone_writes_and_speaks(together):
    folder, [(first, _), (second, _)] = together
    records = read_records(folder / "records.jsonl")
    for kind in (RunRecord, FinalRecord):
        assert len([record for record in records if isinstance(record, kind)]) == 1
    assert records[0].device_count == 8
    assert "validation loss" in first
    assert all(line.startswith("[Gloo]") for line in second.splitlines())  # its own greeting


def test_one_process_goes_on_where_two_stopped(folder, alone, together, tmp_path):
    rest = forget_the_end(together[0], tmp_path / "rest")
    steps = []
    train(config_of(folder), rest, on_progress=lambda progress: steps.append(progress.step))
    assert steps[0] == 9
    np.testing.assert_allclose(losses_of(rest), losses_of(alone), rtol=1e-5)


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(folder, alone, tmp_path):
    rest = forget_the_end(alone, tmp_path / "rest")
    processes = start_two(folder, "--out", str(rest))
    printed = [output_of(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    np.testing.assert_allclose(losses_of(rest), losses_of(alone), rtol=1e-5)


@pytest.mark.slow
def test_processes_whose_devices_share_every_row_both_read_it(folder, tmp_path):
    config = config_of(folder)
    heads = dataclasses.replace(config, model=dataclasses.replace(config.model, heads=8))
    train(heads, tmp_path / "alone")
    processes = start_two(
        folder, "--model.heads", "8", "--mesh.fsdp", "1", "--mesh.tensor", "8",
        "--out", str(tmp_path / "together"),
    )  # fmt: skip
    printed = [output_of(process) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    np.testing.assert_allclose(
        losses_of(tmp_path / "together"), losses_of(tmp_path / "alone"), rtol=1e-5
    )


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_the_same_step(folder, tmp_path):
    run = tmp_path / "run"
    processes = start_two(folder, "--steps", "100000", "--stop-status", "75", "--out", str(run))
    wait_for_step(run, 10, processes)
    processes[1].send_signal(signal.SIGTERM)
    printed = [output_of(process) for process in processes]
    assert [process.returncode for process in processes] == [75, 75], printed
    saved = max(int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdigit())
    assert f"stopped by SIGTERM after step {saved}" in printed[0][0]


def wait_for_step(run, step, processes):
    deadline = time.monotonic() + 90
    while not (run / "records.jsonl").exists() or f'"step": {step},' not in records_text(run):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.2)


def records_text(run):
    return (run / "records.jsonl").read_text()


@pytest.mark.slow
def test_processes_that_were_started_differently_are_refused_before_anything_is_written(
    folder, tmp_path
):
    run = tmp_path / "run"
    processes = start_two(folder, "--out", str(run), of_second=("--seed", "1"))
    printed = [output_of(process) for process in processes]
    assert [process.returncode for process in processes] == [2, 2], printed
    for _, error in printed:
        assert "the configuration of process 1 is not that of process 0" in error
    assert not run.exists()


def test_nobody_at_the_address_is_one_sentence(folder):
    process = start(
        folder, "--hosts.coordinator", f"127.0.0.1:{free_port()}", "--hosts.process-count", "2",
        "--hosts.process-id", "1", "--hosts.timeout", "2",
    )  # fmt: skip
    _, error = output_of(process)
    assert process.returncode == 2, error
    assert "process 1 of 2 did not find process 0 at 127.0.0.1:" in " ".join(error.split())


def test_a_port_that_is_taken_is_one_sentence(folder):
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        process = start(
            folder, "--hosts.coordinator", f"127.0.0.1:{other.getsockname()[1]}",
            "--hosts.process-count", "2", "--hosts.process-id", "0",
        )  # fmt: skip
        _, error = output_of(process)
    assert process.returncode == 2, error
    assert "see that the coordinator's port is free" in " ".join(error.split())


@pytest.mark.parametrize(
    "environment",
    [
        {"SLURM_STEP_NUM_TASKS": "2"},
        {"OMPI_COMM_WORLD_SIZE": "4"},
        {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NODE_RANK": "1"},
    ],
)
def test_a_comparison_started_several_times_at_once_is_refused(environment):
    with pytest.raises(ValueError, match=r"compare is the work of one process.*--ntasks 1"):
        refuse_several_processes("compare", environment)


def test_a_comparison_started_once_by_a_launcher_is_allowed():
    refuse_several_processes("compare", {"SLURM_STEP_NUM_TASKS": "1", "OMPI_COMM_WORLD_SIZE": "1"})
    refuse_several_processes("compare", {})
