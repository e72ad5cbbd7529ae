"""What has a name is on the disk: a file before its name, and names before what needs them."""

import contextlib
import errno
import itertools
import os
import shutil
from functools import partial

import pytest

from train.host.files import replacing, sync_folder, write_whole
from train.run.checkpoint_folders import damage, discard_unfinished, finish, newest_whole, steps

pytestmark = pytest.mark.faults


@pytest.fixture
def events(monkeypatch):
    """What is brought to the disk, by inode, and the names that are given, in order."""
    seen = []

    def synced(descriptor, fsync=os.fsync):
        seen.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def named(old, new, rename=os.rename):
        seen.append(new)
        rename(old, new)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", named)
    monkeypatch.setattr(os, "replace", named)
    return seen


def write(folder, step):
    for name in ("params/d/data", "params/manifest", "meta/metadata"):
        path = folder / f"saving-{step}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


def inodes(*paths):
    return {path.stat().st_ino for path in paths}


def test_a_file_takes_its_name_when_it_is_on_the_disk(tmp_path, events):
    path = tmp_path / "file"
    write_whole(path, b"old")
    events.clear()
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert events == [*inodes(path), path, *inodes(tmp_path)]


def write_half(path):
    with replacing(path) as new:
        new.write_text("half of the new")
        raise ZeroDivisionError


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError):
        write_half(path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_a_checkpoint_takes_its_name_when_all_of_it_is_on_the_disk(tmp_path, events):
    folder = tmp_path / "checkpoints"
    write(folder, 100)
    finish(folder, 100, keep=2)
    checkpoint = folder / "100"
    named = events.index(checkpoint)
    assert inodes(checkpoint, *checkpoint.rglob("*")) <= {*events[:named]}
    assert inodes(folder) <= {*events[named:]}


def test_a_checkpoint_does_not_outlive_the_name_of_its_records(tmp_path, events):
    write(tmp_path / "checkpoints", 100)
    finish(tmp_path / "checkpoints", 100, keep=2)
    assert inodes(tmp_path) <= {*events[: events.index(tmp_path / "checkpoints" / "100")]}


class Crash(BaseException):
    """Nothing is done after it."""


def crash_after(calls, monkeypatch):
    done = itertools.count()

    def call(original, *args, **options):
        if next(done) >= calls:
            raise Crash
        original(*args, **options)

    for name in ("fsync", "rename", "replace", "unlink", "rmdir"):
        monkeypatch.setattr(os, name, partial(call, getattr(os, name)))


def test_a_crash_between_any_two_calls_leaves_whole_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: None)  # What is lost is another test's.
    for step in (100, 200, 300):
        write(tmp_path / "checkpoints", step)
        if step < 300:
            finish(tmp_path / "checkpoints", step, keep=2)
    newest = []
    for calls in itertools.count():
        folder = shutil.copytree(tmp_path / "checkpoints", tmp_path / str(calls))
        with pytest.MonkeyPatch.context() as during, contextlib.suppress(Crash):
            crash_after(calls, during)
            finish(folder, 300, keep=2)
            break
        newest.append(newest_whole(folder))
        assert not any(damage(folder, step) for step in steps(folder))
        discard_unfinished(folder)
        assert {path.name for path in folder.iterdir()} <= {"100", "200", "300"}
    assert newest == sorted(newest)
    assert {*newest} == {200, 300}


def test_a_file_system_that_syncs_no_folders_will_do_but_not_one_that_fails(tmp_path, monkeypatch):
    def refuse(_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    number = errno.EINVAL
    sync_folder(tmp_path)
    number = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        sync_folder(tmp_path)
