"""A disk that is full, fails or is read-only: said in a sentence, and nothing whole is lost."""

import errno
import os
import shlex
import subprocess
import sys
from types import SimpleNamespace

import chex
import pytest

from tests.support.disks import ROOT, needs_mounts, on_own_disk, python
from tests.support.runs import arrays_in, numbers_in
from train.host.disk import DiskError, check_room, disk_explained
from train.run.folder import check_writable

pytestmark = pytest.mark.faults

RUN = shlex.split(
    "-m train run nano --steps 6 --batch-size 8 --context 16 --log-every 1 --eval-every 6 "
    "--eval-batches 1 --checkpoint-every 2 --schedule.warmup-steps 2 --data.source synthetic "
    "--model.layers 1 --model.d-model 64 --model.heads 2 --model.kv-heads 2 --model.d-ff 128"
)

SAVE_UNTIL_FULL = """
import sys
from pathlib import Path
from tests.train.run.test_checkpoint_damage import check_is_of, restored, save
from train.host.disk import DiskError

folder = Path(sys.argv[1]) / "checkpoints"
for step in range(1, 100):
    try:
        save(folder, step)
    except DiskError as error:
        print(error)
        break
check_is_of(step - 1, restored(folder))
print(sorted(path.name for path in folder.iterdir()) == [str(step - 2), str(step - 1)])
(Path(sys.argv[1]) / "ballast").unlink()
save(folder, step)
check_is_of(step, restored(folder))
"""

BEGIN = """
import subprocess
import sys
from pathlib import Path
from train.host.disk import DiskError
from train.run.folder import held

disk = Path(sys.argv[1])
for files in (1, 2, 3):
    subprocess.run(["mount", "-o", f"remount,nr_inodes={files}", disk], check=True)
    try:
        with held(disk / "run"):
            print("held")
    except DiskError as error:
        print(str(error).partition(":")[0])
"""

SAVE_WEIGHTS = """
import sys
from pathlib import Path
import numpy as np
from train.host.disk import DiskError
from train.run.weights import About, save_weights

try:
    params = {"w": np.ones(10**6, np.float32)}
    save_weights(Path(sys.argv[1]), params, About(config_hash="", step=0, model={}))
except DiskError as error:
    print(str(error).partition(":")[0])
print(list(Path(sys.argv[1]).iterdir()))
"""

TRAIN = """
import sys
from pathlib import Path
from tests.support import tiny
from train.run.train import train

sys.modules["train.run.train"].build_program = None  # It is not come to.
try:
    train(tiny.run_config(Path(sys.argv[1])), Path(sys.argv[2]))
except ValueError as error:
    print(error)
"""


FAIL = """
import subprocess
import sys
import time
from pathlib import Path
import chex
from tests.support import tiny
from tests.support.runs import arrays_in, numbers_in
from train.run.train import train
from train.host.disk import DiskError

cache, run, undisturbed = map(Path, sys.argv[1:])
config = tiny.run_config(cache, checkpoint_every=2)
train(config, undisturbed)

def remount(options):
    while subprocess.call(["mount", "-o", f"remount,{options}", run / "checkpoints"]):
        time.sleep(0.01)  # Something is still open.

def fail(progress):
    while progress.step == 3 and not (run / "checkpoints" / "2").exists():
        time.sleep(0.01)
    if progress.step == 3:
        remount("ro")

try:
    train(config, run, on_progress=fail)
except DiskError as error:
    print(error)
print([path.name for path in (run / "checkpoints").iterdir()])
remount("rw")
train(config, run)
assert numbers_in(run) == numbers_in(undisturbed)
chex.assert_trees_all_equal(arrays_in(run, config.steps), arrays_in(undisturbed, config.steps))
"""


@pytest.fixture
def disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "file"),
        OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), "file"),
        OSError(errno.ENOSPC, "in other words"),
        ValueError(f"RESOURCE_EXHAUSTED: Error writing: {os.strerror(errno.ENOSPC)} [28]"),
    ],
)
def test_a_full_disk_is_one_sentence_whoever_found_it(error, tmp_path):
    sentence = r"takes no more \(.*make room, and the same command goes on"
    with pytest.raises(DiskError, match=sentence), disk_explained(tmp_path):
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EIO, os.strerror(errno.EIO), "file"),
        OSError(errno.EROFS, os.strerror(errno.EROFS), "file"),
        OSError(errno.ESTALE, os.strerror(errno.ESTALE), "file"),
        ValueError(f"UNKNOWN: Error writing: {os.strerror(errno.EIO)} [5]"),
    ],
)
def test_a_disk_that_fails_is_one_sentence_too(error, tmp_path):
    sentence = r"has failed \(.*\): see to the disk, and the same command goes on"
    with pytest.raises(DiskError, match=sentence), disk_explained(tmp_path):
        raise error


def test_a_save_that_cannot_come_to_its_end_is_not_begun(tmp_path):
    check_room(tmp_path, 1000)
    with pytest.raises(DiskError, match=r"has room for .* and a checkpoint takes 1e\+06 TB"):
        check_room(tmp_path, 10**18)


def test_a_file_system_that_does_not_say_its_size_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(total=0, used=0, free=0))
    check_room(tmp_path, 1000)


def test_other_errors_are_left_as_they_are(tmp_path):
    with pytest.raises(PermissionError), disk_explained(tmp_path):
        raise PermissionError(errno.EACCES, "no")


def test_a_folder_that_can_be_written_to_is_left_as_it_is(tmp_path):
    check_writable(tmp_path / "a" / "run")
    assert not list(tmp_path.iterdir())


def test_a_file_in_the_place_of_a_run_is_refused(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ValueError, match=r"run cannot be written to \(Not a directory\): choose"):
        check_writable(tmp_path / "run")


@needs_mounts
@pytest.mark.slow
def test_a_full_disk_keeps_the_last_checkpoint_and_room_is_all_that_is_missing(disk):
    fill = f"head -c 300K /dev/zero > {disk}/ballast"
    result = on_own_disk(disk, "size=600k", fill, python("-c", SAVE_UNTIL_FULL, disk))
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{disk}/checkpoints takes no more (No space left on device)")
    assert result.stdout.endswith("True\n")
    # TensorStore may print what its other writes met, after Orbax has given up on them.
    assert "DiskError" not in result.stderr


@needs_mounts
@pytest.mark.slow
def test_a_disk_without_room_for_a_single_file_is_full(disk):
    result = on_own_disk(disk, "nr_inodes=1", python("-c", BEGIN, disk))
    full = f"{disk}/run takes no more (No space left on device)"
    assert result.stdout.splitlines() == [full, full, "held"], result.stderr


@needs_mounts
@pytest.mark.slow
def test_weights_that_find_no_room_are_not_begun_to_be_there(disk):
    save = python("-c", SAVE_WEIGHTS, disk)
    result = on_own_disk(disk, "size=100k", save)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{disk} takes no more (No space left on device)\n[]\n"


@needs_mounts
@pytest.mark.slow
def test_every_command_that_meets_a_full_disk_says_so(disk):
    runs = ROOT / "results" / "study" / "ladder-aardvark.jsonl"
    report = python("-m", "train", "report", runs, "--out", disk / "report")
    result = on_own_disk(disk, "size=8k", f"{report} >&2; echo status $?")
    assert result.stdout == "status 1\n", result.stderr
    assert "disk: the disk takes no more (No space left on device): make room" in result.stderr


@needs_mounts
@pytest.mark.slow
def test_a_read_only_folder_is_refused_before_anything_is_compiled(disk):
    train = python("-c", TRAIN, disk.parent / "cache", disk / "run")
    result = on_own_disk(disk, "ro", train)
    assert result.stdout.startswith(f"{disk}/run cannot be written to (Read-only file system)")
    assert result.returncode == 0, result.stderr


@needs_mounts
@pytest.mark.slow
def test_a_disk_that_turns_read_only_meanwhile_keeps_what_it_has_and_the_run_goes_on_later(disk):
    checkpoints = disk.parent / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    train = python("-c", FAIL, disk.parent / "cache", checkpoints.parent, disk)
    result = on_own_disk(checkpoints, "size=40m", train)
    assert result.returncode == 0, result.stderr
    said, held = result.stdout.splitlines()
    assert said.startswith(f"{checkpoints} has failed (Read-only file system): see to the disk")
    assert held == "['2']"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(
        [sys.executable, *RUN, "--out", "run"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    return folder / "run"


@needs_mounts
@pytest.mark.torture
@pytest.mark.parametrize(
    "room", [pytest.param("8k", id="records"), "600k", "1700k", pytest.param("2800k", id="last")]
)
def test_a_run_that_fills_its_disk_says_so_and_goes_on_to_the_same_bits(disk, undisturbed, room):
    run = python(*RUN, "--out", disk / "run")
    result = on_own_disk(
        disk,
        "size=40m",
        f"head -c 40M /dev/zero > {disk}/ballast; truncate -s -{room} {disk}/ballast",
        f"{run} >&2; echo status $?",
        f"rm {disk}/ballast",
        f"{run} >&2; echo status $?",
        f"cp -r {disk}/run {disk.parent}/copy",
        cwd=undisturbed.parent,
    )
    assert result.stdout.splitlines() == ["status 1", "status 0"], result.stderr
    assert result.stderr.count("make room, and the same command goes on") == 1
    assert "Traceback" not in result.stderr
    again = disk.parent / "copy"
    assert numbers_in(again) == numbers_in(undisturbed)
    chex.assert_trees_all_equal(arrays_in(again, 6), arrays_in(undisturbed, 6))
