"""Nothing that we read is run: the sources know no way to do so, and bombs do not go off."""

import ast
import contextlib
import gc
import os
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from tests.support import ROOT, tiny
from train.data import DataConfig, open_dataset, prepare
from train.data.preparing.preparation import prepared_folder
from train.host.compiling import keep_programs
from train.host.digests import SUMS, seal
from train.records.check import check_records
from train.records.files import read_file
from train.records.lines import RecordWriter, read_records
from train.report.comparison_report import report
from train.report.tuning.trials import load_results
from train.run.checkpoints import Checkpointer
from train.run.folder import claim, finished
from train.run.training_clock import NOTHING_SPENT
from train.run.transfer import export_weights
from train.run.weights import load_weights
from train.step.state import TrainState

pytestmark = pytest.mark.faults

FOLDERS = ("optax_strat", "models", "train", "benchmarks", "notebooks")
SOURCES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]

MODULES = {
    "_pickle", "cloudpickle", "dill", "joblib", "marshal", "pickle", "runpy", "shelve",
    "serialize_executable",
}  # fmt: skip
BUILTINS = {"__import__", "compile", "eval", "exec"}
METHODS = {
    "os.popen", "os.system", "pd.read_pickle", "torch.load", "yaml.full_load", "yaml.load",
    "yaml.unsafe_load",
}  # fmt: skip
PRIVATE_PIPES = {
    "benchmarks/compile_time.py",
    "benchmarks/optimizer_step.py",
    "benchmarks/parts/shared_work.py",
    "benchmarks/parts/stepping.py",
    "train/data/preparing/encoding.py",
    "train/experiments/workers.py",
}
"""`multiprocessing` pickles what it sends. These send it to their own children, over pipes that no
other process can open, and read no file in this way."""


def findings(tree: ast.AST) -> Iterator[str]:
    """What a source says that could run what it reads."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                module = getattr(node, "module", None) or ""
                named = {part for name in names for part in name.name.split(".")}
                yield from (named | set(module.split("."))) & (MODULES | {"multiprocessing"})
            case ast.Call(func=ast.Name(id=name)) if name in BUILTINS:
                yield name
            case ast.Call(func=ast.Attribute()) if ast.unparse(node.func) in METHODS:
                yield ast.unparse(node.func)
            case ast.keyword(arg="allow_pickle" | "shell", value=value):
                if ast.unparse(value) != "False":
                    yield node.arg


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_can_run_what_it_reads(path: Path) -> None:
    found = set(findings(ast.parse(path.read_text())))
    allowed = {"multiprocessing"} if str(path.relative_to(ROOT)) in PRIVATE_PIPES else set()
    assert found <= allowed


def test_the_list_of_private_pipes_is_not_longer_than_it_must_be() -> None:
    for name in PRIVATE_PIPES:
        assert "multiprocessing" in findings(ast.parse((ROOT / name).read_text()))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from jax.experimental import serialize_executable",
        "import torch.multiprocessing",
        "eval(text)",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=shell)",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert list(findings(ast.parse(source)))


# Bombs: files that make a folder when they are unpickled.


class Bomb:
    """Goes off when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def __reduce__(self) -> Any:
        return os.mkdir, (self.mark,)


@pytest.fixture(params=[0, 4], ids=["in text", "in bytes"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[bytes]:
    mark = tmp_path / "exploded"
    yield pickle.dumps(Bomb(mark), protocol=request.param) + b"\n"
    assert not mark.exists()


def assert_refused(read: Callable[[], Any]) -> None:
    """As the user's mistake, whatever the sentence: what it says is tested with each reader."""
    with pytest.raises(ValueError):  # noqa: PT011
        read()


def test_a_bomb_goes_off_where_it_is_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


def test_records_are_data(bomb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(bomb)
    for read in (read_records, read_file, RecordWriter, report):
        assert_refused(partial(read, path))
    assert check_records(path).problems


def test_a_runs_configuration_is_data(bomb: bytes, tmp_path: Path) -> None:
    config = tiny.run_config(tmp_path)
    path = tmp_path / "config.json"
    path.write_bytes(bomb)
    assert_refused(lambda: claim(tmp_path, config))
    assert_refused(lambda: finished(tmp_path, config))
    assert_refused(lambda: export_weights(tmp_path, tmp_path / "out"))
    assert path.read_bytes() == bomb


def test_a_tunings_description_is_data(bomb: bytes, tmp_path: Path) -> None:
    (tmp_path / "tuning.json").write_bytes(bomb)
    assert_refused(lambda: load_results(tmp_path))


PREPARED = ("manifest.json", "tokenizer.json", "train-00000.bin", "validation-00000.bin")
PACKED = ("ends.npy", "lengths.npy", "sha256.txt", "starts.npy")


def test_every_file_of_prepared_data_is_data(bomb: bytes, tmp_path: Path) -> None:
    config = DataConfig(
        source="synthetic", tokenizer="bpe:300", cache_dir=str(tmp_path), packing="documents"
    )

    def read() -> None:
        dataset = open_dataset(config)
        dataset.verify()
        assert dataset.tokenizer.vocab_size == 300
        next(dataset.train_batches(2, 16, seed=0))

    read()
    files = [path for path in prepared_folder(config).rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == sorted([*PREPARED, *PACKED, "verified.json"])
    for path in files:
        content = path.read_bytes()
        path.write_bytes(bomb)
        if path.name == "verified.json":  # A note of what was hashed, made again where it is lost.
            read()
        else:
            assert_refused(read)
        path.write_bytes(content)


def test_an_array_of_pickled_objects_is_no_packing(tmp_path: Path) -> None:
    config = DataConfig(source="synthetic", cache_dir=str(tmp_path), packing="documents")
    next(open_dataset(config).train_batches(2, 16, seed=0))
    (place,) = prepared_folder(config).glob("packing-*")
    (bomb_of_numpy := tmp_path / "objects.npy").touch()
    np.save(bomb_of_numpy, np.array([Bomb(tmp_path / "exploded")], object), allow_pickle=True)
    for name in PACKED[:2]:
        (place / name).write_bytes(bomb_of_numpy.read_bytes())
    digests = (
        sha256((place / f"{name}.npy").read_bytes()) for name in ("starts", "lengths", "ends")
    )
    (place / "sha256.txt").write_text("\n".join(one.hexdigest() for one in digests))
    assert_refused(lambda: next(open_dataset(config).train_batches(2, 16, seed=0)))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "source", ["jsonl:x.jsonl", "jsonl:x.jsonl.gz", "parquet:x.parquet", "bin:x"]
)
def test_sources_of_text_and_tokens_are_data(bomb: bytes, source: str, tmp_path: Path) -> None:
    kind, _, name = source.partition(":")
    paths = [tmp_path / f"{split}-{name}" for split in ("train", "val")] if kind == "bin" else []
    for path in paths or [tmp_path / name]:
        path.write_bytes(bomb)
    where = tmp_path / ("*-x" if kind == "bin" else name)
    config = DataConfig(source=f"{kind}:{where}", cache_dir=str(tmp_path / "cache"))
    assert_refused(lambda: prepare(config))


def test_a_tokenizer_is_data(bomb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(bomb)
    config = DataConfig(
        source="synthetic", tokenizer=f"tokenizer:{path}", cache_dir=str(tmp_path / "cache")
    )
    with pytest.raises(ValueError, match=r"tokenizer.json"):
        prepare(config)


def test_weights_are_data(bomb: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(bomb)
    target = jax.eval_shape(tiny.params)
    with pytest.raises(ValueError, match=r"model.safetensors"):
        load_weights(path, tiny.MODEL, target)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # TensorStore's.
def test_every_file_of_a_checkpoint_is_data(bomb: bytes, tmp_path: Path) -> None:
    params = jax.tree.map(np.asarray, tiny.params())
    target = jax.eval_shape(lambda: TrainState(jax.numpy.int32(0), params, {"mu": params}))
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one), target
    )
    saves = Checkpointer(tmp_path / "saves", config_hash="", fingerprint="", seed=0)
    saves.save(4, TrainState(jax.numpy.int32(4), params, {"mu": params}), NOTHING_SPENT)
    saves.wait()
    folder = tmp_path / "saves" / "4"
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != SUMS]
    assert len(files) > 8
    for path in files:
        content = path.read_bytes()
        path.write_bytes(bomb)
        assert_refused(lambda: saves.restore(target))
        (folder / SUMS).unlink()
        seal(folder)  # As somebody would who means harm.
        with contextlib.suppress(Exception):  # Orbax says what it likes of it.
            saves.restore(target)
        path.write_bytes(content)
        (folder / SUMS).unlink()
        seal(folder)
    saves.close()
    gc.collect()  # What TensorStore left unfinished complains here, and not in another test.
    assert saves.restore(target) is not None
    saves.close()


# Compiled programs are code.


def test_the_folder_of_compiled_programs_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "jax"
    before = jax.config.jax_compilation_cache_dir
    try:
        assert keep_programs(folder) == ""
        assert jax.config.jax_compilation_cache_dir == str(folder)
        assert folder.stat().st_mode & 0o777 == 0o700
        assert keep_programs(folder) == ""
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("mode", [0o777, 0o720, 0o702, 0o1777])
def test_a_folder_of_compiled_programs_that_others_can_write_to_is_not_used(
    mode: int, tmp_path: Path
) -> None:
    tmp_path.chmod(mode)
    before = jax.config.jax_compilation_cache_dir
    assert keep_programs(tmp_path).endswith(
        f"others can write to {tmp_path}; chmod go-w {tmp_path}"
    )
    assert jax.config.jax_compilation_cache_dir == before


def test_another_users_folder_of_compiled_programs_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    assert "is another user's" in keep_programs(tmp_path)


def test_without_a_folder_of_compiled_programs_all_else_goes_on(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot be made (Not a directory)" in keep_programs(tmp_path / "file" / "jax")
