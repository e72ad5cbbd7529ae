"""A run: what it writes, and that stopping and going on changes nothing."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support import tiny
from train.cli import main
from train.config import named
from train.config.plain import config_hash, to_dict
from train.config.run import MeshConfig
from train.data import open_dataset
from train.host.signals import Interrupted
from train.inspection.out_of_memory import OutOfMemoryError, explain_out_of_memory, memory_explained
from train.optimizers import Aardvark
from train.records.lines import EvalRecord, FinalRecord, RunRecord, StepRecord, read_records
from train.run.checkpoints import Checkpointer, CheckpointError
from train.run.folder import held
from train.run.train import StuckError, train
from train.step.accelerators import ACCELERATORS
from train.step.program import build_program
from train.tasks import task_of


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.run_config(tmp_path_factory.mktemp("cache"), optimizer=Aardvark(learning_rate=1e-2))


@pytest.fixture(scope="module")
def program(config):
    return build_program(config, task_of(config))


@pytest.fixture(scope="module")
def undisturbed(config, program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    train(config, folder, program=program)
    return folder


def checkpointer_of(folder, config):
    return Checkpointer(
        folder / "checkpoints",
        config_hash=config_hash(config),
        fingerprint=open_dataset(config.data).fingerprint,
        seed=config.seed,
    )


def state_in(folder, config, program):
    checkpointer = checkpointer_of(folder, config)
    restored = checkpointer.restore(program.target)
    checkpointer.close()
    return restored.state


def without_clocks(records):
    """Records as dictionaries, less what two equal runs may differ in."""
    clocks = {"seconds", "device_seconds", "started", "tokens_per_second", "mfu"}
    return [
        {name: value for name, value in vars(record).items() if name not in clocks}
        for record in records
    ]


def test_a_run_writes_its_configuration_and_one_record_a_line(undisturbed, config):
    assert json.loads((undisturbed / "config.json").read_text()) == to_dict(config)
    records = read_records(undisturbed / "records.jsonl")
    assert [type(record) for record in records].count(RunRecord) == 1
    assert [r.step for r in records if isinstance(r, StepRecord)] == [2, 4, 6, 8, 10, 12]
    assert [r.step for r in records if isinstance(r, EvalRecord)] == [0, 4, 8, 12]
    assert isinstance(records[0], RunRecord)
    assert isinstance(records[-1], FinalRecord)


def test_it_learns_and_says_so(undisturbed):
    records = read_records(undisturbed / "records.jsonl")
    first = next(record for record in records if isinstance(record, EvalRecord))
    final = records[-1]
    np.testing.assert_allclose(first.loss, np.log(tiny.MODEL.vocab_size), rtol=0.02)
    assert final.val_loss < first.loss - 0.3
    assert not final.diverged
    assert final.tokens == 12 * 8 * 16
    np.testing.assert_allclose(
        final.bits_per_byte / final.val_loss, first.bits_per_byte / first.loss
    )


def test_a_finished_run_is_not_run_again(undisturbed, config):
    before = (undisturbed / "records.jsonl").read_bytes()
    forbidden = object()  # would fail if the loop touched it
    again = train(config, undisturbed, program=forbidden, task=forbidden)
    assert isinstance(again, FinalRecord)
    assert (undisturbed / "records.jsonl").read_bytes() == before


@pytest.mark.parametrize("stop_after", [1, 5, 8, 10])
def test_a_run_that_was_stopped_ends_in_the_same_bits(
    stop_after, config, program, undisturbed, tmp_path
):
    def interrupt(progress):
        if progress.step == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"):
        train(config, tmp_path, program=program, on_progress=interrupt)
    train(config, tmp_path, program=program)
    chex.assert_trees_all_equal(
        state_in(tmp_path, config, program), state_in(undisturbed, config, program)
    )
    assert without_clocks(read_records(tmp_path / "records.jsonl")) == without_clocks(
        read_records(undisturbed / "records.jsonl")
    )


def test_a_crash_loses_at_most_the_steps_since_the_last_checkpoint(
    config, program, undisturbed, tmp_path
):
    def crash(progress):
        if progress.step == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(config, tmp_path, program=program, on_progress=crash)
    steps = []
    train(config, tmp_path, program=program, on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 5
    assert without_clocks(read_records(tmp_path / "records.jsonl")) == without_clocks(
        read_records(undisturbed / "records.jsonl")
    )


@pytest.mark.parametrize("step", [0, 4, 12])
def test_an_evaluation_that_was_broken_off_is_made_up_for(
    step, config, program, undisturbed, tmp_path, monkeypatch
):
    """By a signal, after which the state is saved at once, and by a crash."""
    real = type(program).evaluate
    evaluated = []

    def signal_comes(self, params, batches):
        evaluated.append(len(evaluated) * config.eval_every)
        if evaluated[-1] == step:
            os.kill(os.getpid(), signal.SIGTERM)
        batches = list(batches)
        assert len(batches) == (1 if evaluated[-1] == step else config.eval_batches)
        return real(self, params, batches)

    def crash(self, params, batches):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(program), "evaluate", signal_comes)
        with pytest.raises(Interrupted, match=f"after step {step};" if step else "is kept"):
            train(config, tmp_path, program=program)
        patch.setattr(type(program), "evaluate", crash)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path, program=program)
    final = train(config, tmp_path, program=program)
    assert not final.diverged
    chex.assert_trees_all_equal(
        state_in(tmp_path, config, program), state_in(undisturbed, config, program)
    )
    assert without_clocks(read_records(tmp_path / "records.jsonl")) == without_clocks(
        read_records(undisturbed / "records.jsonl")
    )


def test_a_signal_to_a_run_that_gets_stuck_is_not_lost(config, program, tmp_path, monkeypatch):
    """A comparison takes a stuck run for a result, and would go on to the next."""

    def signal_comes(progress):
        if progress.step == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def never_finite(self, step):
        self._end(0, step, "the parameters are no longer finite")

    monkeypatch.setattr("train.run.loop.Loop._end_broken", never_finite)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # None in the background.
    try:
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path, program=program, on_progress=signal_comes)
    finally:
        signal.signal(signal.SIGINT, before)
    assert isinstance(read_records(tmp_path / "records.jsonl")[-1], FinalRecord)


def test_a_killed_process_goes_on_to_the_same_bits(config, program, undisturbed, tmp_path):
    script = f"""
import os, signal
from pathlib import Path
from tests.support import tiny
from train.run.train import train
from train.optimizers import Aardvark

def die(progress):
    if progress.step == 10:
        os.kill(os.getpid(), signal.SIGKILL)

optimizer = Aardvark(learning_rate=1e-2)
config = tiny.run_config(Path({str(config.data.cache_dir)!r}), optimizer=optimizer)
train(config, Path({str(tmp_path)!r}), on_progress=die)
"""
    killed = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "records.jsonl").exists()
    train(config, tmp_path, program=program)
    chex.assert_trees_all_equal(
        state_in(tmp_path, config, program), state_in(undisturbed, config, program)
    )
    assert without_clocks(read_records(tmp_path / "records.jsonl")) == without_clocks(
        read_records(undisturbed / "records.jsonl")
    )


def test_another_configuration_is_refused_and_nothing_is_touched(config, undisturbed, tmp_path):
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    other = tiny.run_config(tmp_path, optimizer=Aardvark(learning_rate=0.5))
    with pytest.raises(ValueError, match=r"holds another configuration .*choose another --out"):
        train(other, undisturbed)
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before


def test_a_checkpoint_of_another_run_is_refused(config, program, undisturbed):
    other = Checkpointer(
        undisturbed / "checkpoints", config_hash="0" * 12, fingerprint="x", seed=config.seed
    )
    with pytest.raises(CheckpointError, match="choose another --out"):
        other.restore(program.target)
    other.close()


def test_a_checkpoint_of_another_dtype_is_refused_and_not_cast(config, program, undisturbed):
    checkpointer = checkpointer_of(undisturbed, config)
    halved = program.target._replace(
        params=jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16", sharding=x.sharding),
            program.target.params,
        )
    )
    with pytest.raises(CheckpointError, match="saved as float32 and this run uses bfloat16"):
        checkpointer.restore(halved)
    checkpointer.close()


def test_a_second_writer_of_a_folder_is_refused_and_the_first_goes_on(config, program, tmp_path):
    with held(tmp_path / "run"), pytest.raises(ValueError, match="another process is writing"):
        train(config, tmp_path / "run", program=program)
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".lock"]


def test_trackers_stand_beside_the_records(config, program, tmp_path):
    train(config, tmp_path / "run", program=program, track=("tensorboard",))
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 1


def test_a_vocabulary_that_is_too_small_is_refused_before_anything_is_written(config, tmp_path):
    small = tiny.run_config(tmp_path, model=tiny.dataclasses.replace(tiny.MODEL, vocab_size=7))
    with pytest.raises(ValueError, match=r"model.vocab_size=7 is smaller .*--model.vocab-size"):
        train(small, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_too_many_bad_steps_in_a_row_stop_the_run_and_are_recorded(config, tmp_path, monkeypatch):
    stuck = tiny.run_config(tmp_path, max_consecutive_skips=3)
    program = build_program(stuck, task_of(stuck))
    monkeypatch.setattr(
        type(program), "place",
        lambda self, batch: batch._replace(weights_BT=np.full((8, 16), np.nan, np.float32)),
    )  # fmt: skip
    monkeypatch.setattr(type(program), "evaluate", lambda *_: 5.6)
    with pytest.raises(StuckError, match="3 steps in a row were not finite"):
        train(stuck, tmp_path / "run", program=program)
    final = read_records(tmp_path / "run" / "records.jsonl")[-1]
    assert isinstance(final, FinalRecord)
    assert final.diverged


EXHAUSTED = jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12 bytes.")


def test_a_step_without_memory_ends_in_a_sentence_and_the_run_goes_on_later(
    config, program, undisturbed, tmp_path, monkeypatch
):
    real_step = type(program).train_step

    def step(self, state, batch):
        if int(state.step) == 6:
            raise EXHAUSTED
        return real_step(self, state, batch)

    with monkeypatch.context() as patch:
        patch.setattr(type(program), "train_step", step)
        error = pytest.raises(
            OutOfMemoryError, match=r"memory ran out \(Out of memory allocating 12"
        )
        with error, memory_explained(config):
            train(config, tmp_path, program=program)
    train(config, tmp_path, program=program)
    assert without_clocks(read_records(tmp_path / "records.jsonl")) == without_clocks(
        read_records(undisturbed / "records.jsonl")
    )


def test_a_program_that_does_not_fit_ends_with_status_2_before_anything_is_written(
    tmp_path, monkeypatch, capsys
):
    def build(config, task):
        raise EXHAUSTED

    monkeypatch.setattr("train.run.train.build_program", build)
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        main.main(["run", "nano", "--data.source", "synthetic", "--out", "run"])
    assert end.value.code == 2
    assert "`python -m train plan` predicts" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_xlas_own_exhaustion_is_explained_and_other_errors_are_not(config):
    with (
        pytest.raises(OutOfMemoryError, match="on each of 8 devices; try --"),
        memory_explained(config),
    ):
        jnp.zeros(2**46).block_until_ready()  # More than a process can address.
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"), memory_explained(config):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")


@dataclasses.dataclass(frozen=True)
class Device:
    """A device that is not here, of which JAX may use a part."""

    device_kind: str
    limit: float | None

    def memory_stats(self):
        return {"bytes_limit": self.limit} if self.limit else None


@pytest.mark.parametrize(
    ("name", "limit", "offer"),
    [
        ("h100", None, r"\(NVIDIA H100 80GB HBM3\) has 72 GB for JAX;"),
        ("h100", 60e9, r"has 60 GB for JAX, or 72 GB with XLA_PYTHON_CLIENT_MEM_FRACTION=0.9;"),
        ("h100", 71e9, "has 71 GB for JAX;"),
        (None, 24e9, r"\(unheard of\) has 24 GB for JAX;"),
    ],
)
def test_a_device_that_is_known_is_compared_with_the_plan(name, limit, offer):
    paper = dataclasses.replace(named.paper_consistent(), mesh=MeshConfig(fsdp=8))
    device = Device(ACCELERATORS[name].kind if name else "unheard of", limit)
    sentence = explain_out_of_memory(paper, EXHAUSTED, device, 8)
    expected = f"predicts [0-9.]+ GB on each of 8 devices, and a device .*{offer} try --accumulate"
    assert re.search(expected, sentence)


def test_data_of_another_tokenizer_than_the_checkpoints_is_refused(config, program, undisturbed):
    other = Checkpointer(
        undisturbed / "checkpoints",
        config_hash=config_hash(config), fingerprint="another", seed=config.seed,
    )  # fmt: skip
    sentence = r"another text, tokenizer or packing.*choose another --out"
    with pytest.raises(CheckpointError, match=sentence):
        other.restore(program.target)
    other.close()
