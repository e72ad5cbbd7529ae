"""A checkpoint is read back as it was written, or not at all: the one before it is taken."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import SingleDeviceSharding

from tests.support import tiny
from tests.support.disks import ROOT
from tests.support.runs import arrays_in, numbers_in
from train.host.digests import SUMS, seal
from train.run.checkpoint_folders import newest_whole, read_newest_whole, steps
from train.run.checkpoints import Checkpointer, CheckpointError
from train.run.train import train
from train.run.training_clock import NOTHING_SPENT
from train.step.program import build_program
from train.step.state import TrainState
from train.tasks import task_of

pytestmark = pytest.mark.faults

FILES = (
    "_CHECKPOINT_METADATA",
    "commit_success.txt",
    *(f"{item}/{name}" for item in ("data", "meta") for name in ("commit_success.txt", "metadata")),
    *(
        f"{item}/{name}"
        for item in ("params", "opt_state")
        for name in (
            "_METADATA",
            "_sharding",
            "array_metadatas/process_0",
            "commit_success.txt",
            "d/*",
            "manifest.ocdbt",
            "ocdbt.process_0/d/*",
            "ocdbt.process_0/manifest.ocdbt",
        )
    ),
)
"""One of each kind of file that a checkpoint has; a star is whatever Orbax calls it."""


def state_of(step):
    """A small state of a step: every leaf tells which."""
    params = {"dense": {"kernel": jnp.full((4, 8), step, jnp.float32)}, "scale": jnp.ones(8) * step}
    opt_state = (jnp.asarray(step, jnp.int32), jax.tree.map(lambda x: -x, params), ())
    return TrainState(jnp.asarray(step, jnp.int32), params, opt_state)


TARGET = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
        x.shape, x.dtype, sharding=SingleDeviceSharding(jax.devices()[0])
    ),
    state_of(0),
)


def save(folder, *saved):
    checkpointer = Checkpointer(folder, config_hash="a", fingerprint="b", seed=0)
    for step in saved:
        checkpointer.save(step, state_of(step), NOTHING_SPENT)
    checkpointer.close()


def restored(folder, target=TARGET):
    checkpointer = Checkpointer(folder, config_hash="a", fingerprint="b", seed=0)
    try:
        return checkpointer.restore(target).state
    finally:
        checkpointer.close()


def check_is_of(step, state):
    jax.tree.map(np.testing.assert_array_equal, state, state_of(step))


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Checkpoints of the steps 100 and 200."""
    folder = tmp_path_factory.mktemp("written")
    save(folder, 100, 200)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of them, to be damaged."""
    return shutil.copytree(written, tmp_path / "checkpoints")


def flip(path):
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    path.write_bytes(b"")


def lose(path):
    path.unlink()


def link(path):
    path.unlink()
    path.symlink_to("/dev/null")


def test_an_undamaged_newest_checkpoint_is_the_one_restored(folder, caplog):
    check_is_of(200, restored(folder))
    assert entries(folder) == ["100", "200"]
    assert not caplog.messages


def test_every_kind_of_file_is_listed_here(written):
    listed = {path for name in FILES for path in (written / "200").glob(name)}
    found = {path for path in (written / "200").rglob("*") if path.is_file()}
    assert listed | {written / "200" / SUMS} == found


@pytest.mark.parametrize(
    "harm", [flip, truncate, empty, lose, link], ids=lambda harm: harm.__name__
)
def test_damage_to_any_file_falls_back_to_the_checkpoint_before(folder, harm, caplog):
    for name in FILES:
        path = next((folder / "200").glob(name))
        content = path.read_bytes()
        harm(path)
        assert newest_whole(folder) == 100
        message = caplog.messages[-1]
        assert "checkpoint 200 is damaged" in message
        assert message.endswith("kept as 200.damaged; going on from 100")
        assert path.relative_to(folder / "200").as_posix() in message
        assert entries(folder) == ["100", "200.damaged"]
        (folder / "200.damaged").rename(folder / "200")
        path.unlink(missing_ok=True)
        path.write_bytes(content)
    assert newest_whole(folder) == 200


@pytest.mark.parametrize("harm", [flip, empty, lose, link], ids=lambda harm: harm.__name__)
def test_damage_to_the_digests_falls_back_too(folder, harm, caplog):
    harm(folder / "200" / SUMS)
    assert newest_whole(folder) == 100
    assert "checkpoint 200 is damaged" in caplog.text


@pytest.mark.torture
def test_flipped_bytes_never_become_wrong_values(written, tmp_path):
    seed = time.time_ns()
    print("seed", seed)
    random = np.random.default_rng(seed)
    files = [path for path in (written / "200").rglob("*") if path.is_file()]
    for path in files:
        for _ in range(5):
            folder = shutil.copytree(written, tmp_path / "checkpoints")
            content = bytearray(path.read_bytes())
            content[random.integers(len(content))] ^= random.integers(1, 256)
            (folder / path.relative_to(written)).write_bytes(content)
            check_is_of(100, restored(folder))
            shutil.rmtree(folder)


def empty_folder(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def part_of_it(checkpoint):
    shutil.rmtree(checkpoint / "params")


def a_file(checkpoint):
    shutil.rmtree(checkpoint)
    checkpoint.write_text("200")


def a_link(checkpoint):
    checkpoint.rename(checkpoint.with_name("elsewhere"))
    checkpoint.symlink_to("elsewhere")


def one_file_more(checkpoint):
    (checkpoint / "params" / "d" / "more").write_text("")


def a_linked_folder(checkpoint):
    (checkpoint / "params" / "d").rename(checkpoint.parent / "elsewhere")
    (checkpoint / "params" / "d").symlink_to("../../elsewhere")


def a_pipe(checkpoint):
    os.mkfifo(checkpoint / "params" / "pipe")


def a_hostile_name(checkpoint):
    (checkpoint / "params" / "\x1b[2J").write_text("")


def a_hostile_digest(checkpoint):
    (checkpoint / SUMS).write_text(f"{'0' * 64}  \x1b[2J\n")


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (empty_folder, "SHA256SUMS is missing"),
        (part_of_it, "params/_METADATA is missing"),
        (a_file, "a file, where a folder was written"),
        (a_link, "a symbolic link, where a folder was written"),
        (a_linked_folder, "params/d is a symbolic link"),
        (one_file_more, "params/d/more was added"),
        (a_pipe, "params/pipe is neither a file nor a folder"),
        (a_hostile_name, r"'params/\x1b[2J' was added"),
        (a_hostile_digest, "SHA256SUMS, line 1: not a digest and a name"),
    ],
)
def test_what_is_no_whole_checkpoint_is_passed_over(folder, harm, what, caplog):
    harm(folder / "200")
    check_is_of(100, restored(folder))
    assert f"checkpoint 200 is damaged ({what})" in caplog.text


@pytest.mark.parametrize("name", ["../outside", "params/../../outside", "{folder}/outside"])
def test_digests_that_name_a_file_outside_do_not_have_it_read(folder, name, caplog):
    os.mkfifo(folder / "outside")  # Whoever opens it waits for ever.
    name = name.format(folder=folder)
    sums = folder / "200" / SUMS
    sums.write_text(f"{'0' * 64}  {name}\n" + sums.read_text())
    assert newest_whole(folder) == 100
    assert f"({name} is missing)" in caplog.text


def test_a_block_that_cannot_be_read_is_damage(folder, caplog, monkeypatch):
    def bad_block(*_):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as during:
        during.setattr("hashlib.file_digest", bad_block)
        with pytest.raises(CheckpointError, match=r"cannot be read \(Input/output error\)"):
            newest_whole(folder)
    assert newest_whole(folder) == 200


@pytest.mark.parametrize("name", ["params", "data/metadata", SUMS])
def test_an_entry_that_the_system_cannot_look_at_is_damage(folder, name, caplog, monkeypatch):
    def look(path, original=Path.lstat):
        if path == folder / "200" / name:
            raise OSError(errno.EUCLEAN, "Structure needs cleaning", str(path))
        return original(path)

    monkeypatch.setattr(Path, "lstat", look)
    assert newest_whole(folder) == 100
    assert f"200 is damaged ({name} cannot be read (Structure needs cleaning))" in caplog.text


def test_digests_that_cannot_be_read_are_damage(folder, caplog, monkeypatch):
    def read(path, original=Path.read_text, **options):
        if path == folder / "200" / SUMS:
            raise OSError(errno.EIO, "Input/output error")
        return original(path, **options)

    monkeypatch.setattr(Path, "read_text", read)
    assert newest_whole(folder) == 100
    assert f"200 is damaged ({SUMS} cannot be read (Input/output error))" in caplog.text


def test_a_copy_with_the_name_of_another_step_is_refused(folder):
    shutil.copytree(folder / "100", folder / "300")
    with pytest.raises(CheckpointError, match="300 holds the state of step 100: give it that name"):
        restored(folder)
    assert entries(folder) == ["100", "200", "300"]


def test_a_checkpoint_that_does_not_say_whose_it_is_is_refused(folder):
    (folder / "200" / "meta" / "metadata").write_text('{"seconds": 1.0}')
    seal(folder / "200")
    with pytest.raises(CheckpointError, match=r"of another configuration \(config_hash=None, and"):
        restored(folder)


def test_what_cannot_be_removed_stops_no_save_and_goes_with_a_later_one(
    folder, caplog, monkeypatch
):
    def busy(path):
        raise OSError(errno.EBUSY, "Device or resource busy")

    with monkeypatch.context() as during:
        during.setattr(shutil, "rmtree", busy)
        save(folder, 300)
        assert entries(folder) == ["200", "300", "saving-100"]
        assert "saving-100 cannot be removed now (Device or resource busy)" in caplog.text
    save(folder, 400)
    assert entries(folder) == ["300", "400"]


def test_a_step_that_a_run_removes_while_it_is_read_is_passed_over(folder):
    def read(step):
        if step == 200:
            shutil.rmtree(folder / "200")
            raise FileNotFoundError
        return step

    assert read_newest_whole(folder, lambda step: True, read) == 100
    assert read_newest_whole(folder, lambda step: step < 100, read) is None


def test_an_error_in_reading_a_step_that_is_there_is_not_passed_over(folder):
    with pytest.raises(ZeroDivisionError):
        read_newest_whole(folder, lambda step: True, lambda step: step / 0)


def test_a_save_may_take_longer_than_orbax_waits_by_itself(folder, monkeypatch):
    by_itself = ocp.AsyncCheckpointer.__init__.__kwdefaults__["async_options"]
    monkeypatch.setattr(by_itself, "timeout_secs", 1e-9)
    save(folder, 300)
    assert entries(folder) == ["200", "300"]


def test_what_an_unfinished_save_left_is_no_checkpoint_and_goes_with_the_next_save(folder):
    shutil.copytree(folder / "200", folder / "saving-300")
    (folder / "saving-400.orbax-checkpoint-tmp").mkdir()
    check_is_of(200, restored(folder))
    save(folder, 500)
    assert entries(folder) == ["200", "500"]


def test_the_step_of_a_damaged_checkpoint_is_saved_again_and_nothing_is_deleted_for_it(folder):
    for aside in ("200.damaged", "200.damaged-2"):
        lose(folder / "200" / SUMS)
        check_is_of(100, restored(folder))
        save(folder, 200)
        check_is_of(200, restored(folder))
        assert (folder / aside / "params" / "_METADATA").exists()
    assert steps(folder) == [100, 200]


def test_where_all_are_damaged_the_run_is_refused_and_nothing_is_touched(folder):
    for step in (100, 200):
        flip(folder / str(step) / "data" / "metadata")
    sentence = (
        r"holds no whole checkpoint, only damaged ones: 200 \(data/metadata has changed since it "
        r"was written\), 100 .*move the folder away to start the run again\.$"
    )
    for _ in range(2):
        with pytest.raises(CheckpointError, match=sentence):
            restored(folder)
    assert entries(folder) == ["100", "200"]


def test_a_folder_of_checkpoints_that_is_a_link_is_refused(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CheckpointError, match="link is a symbolic link"):
        restored(tmp_path / "link")


@pytest.mark.skipif(not shutil.which("sha256sum"), reason="sha256sum is not installed")
def test_sha256sum_checks_a_checkpoint_too(folder):
    command = ["sha256sum", "--check", "--strict", "--quiet", SUMS]
    assert subprocess.run(command, cwd=folder / "200", check=False).returncode == 0
    flip(folder / "200" / "data" / "metadata")
    changed = subprocess.run(command, cwd=folder / "200", capture_output=True, check=False)
    assert b"data/metadata: FAILED" in changed.stdout


def with_params(params):
    return TARGET._replace(params=params)


KERNEL, SCALE = TARGET.params["dense"]["kernel"], TARGET.params["scale"]
HALF = jax.ShapeDtypeStruct(SCALE.shape, "bfloat16", sharding=SCALE.sharding)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"scale": SCALE}, "params/dense/kernel was saved and this run has no such array"),
        ({**TARGET.params, "new": SCALE}, "params/new was not saved and this run has it"),
        ({**TARGET.params, "scale": KERNEL}, r"shape \(8,\) and this run has \(4, 8\)"),
        ({**TARGET.params, "scale": HALF}, "saved as float32 and this run uses bfloat16"),
    ],
)
def test_arrays_of_another_model_are_one_sentence(folder, params, sentence):
    with pytest.raises(CheckpointError, match=sentence) as refused:
        restored(folder, with_params(params))
    assert "\n" not in str(refused.value)


@pytest.mark.torture
def test_a_run_whose_newest_checkpoint_is_damaged_ends_in_the_same_bits(tmp_path, caplog):
    def crash(progress):
        if progress.step == 11:
            raise ZeroDivisionError

    config = tiny.run_config(tmp_path / "cache")
    program = build_program(config, task_of(config))
    train(config, tmp_path / "undisturbed", program=program)
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError):
        train(config, run, program=program, on_progress=crash)
    flip(next((run / "checkpoints" / "8").glob("params/ocdbt.process_0/d/*")))
    made = []
    train(config, run, program=program, on_progress=lambda progress: made.append(progress.step))
    assert "checkpoint 8 is damaged" in caplog.text
    assert made == [5, 6, 7, 8, 9, 10, 11, 12]
    assert numbers_in(run) == numbers_in(tmp_path / "undisturbed")
    chex.assert_trees_all_equal(
        *(arrays_in(folder, 12) for folder in (run, tmp_path / "undisturbed"))
    )


TWO_PROCESSES = """
import contextlib
import errno
import sys
import time
from pathlib import Path

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))

from tests.train.run.test_checkpoint_damage import flip
from train.run import checkpoints as checkpointing
from train.run.checkpoints import Checkpointer, CheckpointError
from train.host.disk import DiskError
from train.step.state import TrainState
from train.run.training_clock import NOTHING_SPENT

mesh = jax.make_mesh((2,), ("data",))
split, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
folder = Path(sys.argv[3])

def state_of(step):
    number = jax.device_put(np.int32(step), whole)
    shards = jax.make_array_from_callback((8, 4), split, lambda _: np.full((4, 4), step, "float32"))
    return TrainState(number, {"w": shards}, (number,))

def checkpointer():
    return Checkpointer(folder, config_hash="", fingerprint="", seed=0)

def damage(step):
    if jax.process_index() == 0:
        flip(folder / str(step) / "params" / "manifest.ocdbt")

def finish_late(*arguments, finish=checkpointing.finish):
    time.sleep(1)
    finish(*arguments)

checkpointing.finish = finish_late
writer = checkpointer()
for step in (100, 200):
    writer.save(step, state_of(step), NOTHING_SPENT)
writer.close()
print((folder / "200").exists())

def find_no_room(*_):
    raise OSError(errno.ENOSPC, "No space left on device")

checkpointing.finish = find_no_room  # The first process's alone; the others must not wait for ever.
writer = checkpointer()
writer.save(300, state_of(300), NOTHING_SPENT)
with contextlib.suppress(DiskError):
    writer.close()

target = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state_of(0)
)
damage(200)
state = checkpointer().restore(target).state
print(int(state.step), np.unique(state.params["w"].addressable_shards[0].data), flush=True)
damage(100)
try:
    checkpointer().restore(target)
except CheckpointError as error:
    print("no whole checkpoint" in str(error))
"""


@pytest.mark.slow
def test_two_processes_save_together_wait_for_it_and_fall_back_to_the_same_checkpoint(tmp_path):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO_PROCESSES, address, number, tmp_path / "checkpoints"],
            env=os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in "01"
    ]
    printed = [process.communicate(timeout=300) for process in processes]
    for out, err in printed:
        told = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
        assert told == ["True", "100 [100.]", "True"], err
    assert [err.count("checkpoint 200 is damaged") for _, err in printed] == [1, 0]
    assert entries(tmp_path / "checkpoints") == ["100", "200.damaged"]
