"""The train step beside PyTorch's: both compute the same, and only then a ratio means something."""

import dataclasses
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import numpy as np
import pytest

from benchmarks import train_step
from benchmarks.parts.outcome import Ratio
from benchmarks.parts.stepping import StartError, steppers
from benchmarks.parts.train_programs import Ours, Said, Theirs, run_config
from benchmarks.train_step import SHAPES, TOLERANCE, Options, Row, check_losses, main, verdict
from tests.support import ROOT


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_ours_and_pytorch_learn_alike_from_the_same_start(dtype):
    pytest.importorskip("torch")
    model = dataclasses.replace(SHAPES["tiny"], dtype=dtype)
    config = run_config(model, batch_size=8)  # A row for each virtual device.
    _, ours = Ours(config)()
    _, theirs = Theirs(config, mode=None, device="cpu")()
    assert ours.losses == pytest.approx(theirs.losses, abs=TOLERANCE[dtype])
    # What the steps learned is a hundred times what the two may differ by.
    assert ours.losses[0] - ours.losses[-1] > (0.01 if dtype == "float32" else 0.0)


def test_steps_that_compute_something_else_are_not_timed():
    same, other = Said("a machine", (4.0, 3.9)), Said("a machine", (4.0, 3.8))
    check_losses([same, same], 0.01)
    with pytest.raises(ValueError, match=r"differ by 0\.1 nats, which is more than 0\.01"):
        check_losses([same, other], 0.01)
    with pytest.raises(ValueError, match="do not compute the same"):
        check_losses([same, Said("a machine", (4.0, float("nan")))], 0.01)


def test_a_missing_pytorch_ends_in_one_sentence(monkeypatch):
    def version(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(train_step, "version", version)
    with pytest.raises(ValueError, match="PyTorch is not installed: `make bench-torch`"):
        main(Options(shapes=("tiny",)))


@dataclasses.dataclass(frozen=True)
class TooLarge:
    def __call__(self):
        raise MemoryError("out of memory")


def test_a_program_that_does_not_start_is_named_and_not_waited_for():
    with pytest.raises(StartError, match="TooLarge did not start"), steppers([TooLarge()]):
        pass


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="There is no shape '2M': choose from"):
        main(Options(shapes=("2M",)))


def row(contestant="torch.compile", ratio=1.2, mfu=None, control=1.0):
    return Row(
        shape="1M",
        batch_size=4,
        contestant=contestant,
        device="a machine",
        torch="2.13.0",
        tokens_per_second=1e4,
        mfu=mfu,
        ratio=Ratio(ratio, ratio, ratio),
        control=Ratio(control, control, control),
        verdict="",
    )


@pytest.mark.parametrize(
    ("found", "device", "expected"),
    [
        (row(), "cpu", "met"),
        (row(ratio=0.99), "cpu", "missed"),
        (row(ratio=1.05), "gpu", "missed"),
        (row(control=1.04), "cpu", "not trustworthy"),
        (row("torch", ratio=0.5), "cpu", ""),
        (row("ours", ratio=1.0), "cpu", ""),
        (row("ours", ratio=1.0, mfu=0.44), "gpu", "missed"),
        (row("ours", ratio=1.0, mfu=0.46), "gpu", "met"),
    ],
)
def test_ours_is_judged_beside_compiled_pytorch_and_by_its_use_of_the_device(
    found, device, expected
):
    assert verdict(found, device) == expected


def test_vocabularies_suit_pytorch_too():
    assert all(shape.vocab_size % 64 == 0 for shape in SHAPES.values())


@pytest.mark.slow
def test_the_benchmark_runs_and_leaves_a_record(tmp_path):
    pytest.importorskip("torch")
    output = tmp_path / "steps.jsonl"
    command = [sys.executable, "-m", "benchmarks.train_step", "--shapes", "tiny", "--rounds", "2"]
    command += ["--seconds", "0.01", "--tries", "1", "--output", str(output)]
    # The suite's flags make compilation fast and programs slow.
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode in (0, 1, 2), done.stderr
    record = json.loads(output.read_text())
    assert [row["contestant"] for row in record["rows"]] == list(train_step.CONTESTANTS)
    assert np.all([row["tokens_per_second"] > 0 for row in record["rows"]])
