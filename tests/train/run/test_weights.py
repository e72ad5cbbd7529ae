"""Parameters as safetensors: out of a run and into another, or a sentence that says why not."""

import dataclasses
import hashlib
import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import optax
import pytest
import safetensors.numpy
from jax.sharding import SingleDeviceSharding

from tests.support import tiny
from train.config.plain import config_hash, to_dict
from train.config.run import MeshConfig
from train.host.disk import DiskError
from train.records.lines import EvalRecord, RunRecord, read_records
from train.run.checkpoint_checks import leaves_by_path
from train.run.checkpoints import Checkpointer
from train.run.folder import RECORDS, claim, imported_weights, write_config
from train.run.train import train
from train.run.training_clock import NOTHING_SPENT
from train.run.transfer import IMPORTED, export_weights, import_weights
from train.run.weights import About, WeightsError, load_weights, read_about, save_weights
from train.step.program import build_program
from train.step.sharding import make_mesh
from train.step.state import TrainState, abstract_state
from train.tasks import task_of

pytestmark = pytest.mark.faults

ABOUT = About(config_hash="0123456789ab", step=12, model=to_dict(tiny.MODEL))
PARAMS = jax.tree.map(np.asarray, tiny.params())
TARGET = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=SingleDeviceSharding(jax.devices()[0])
    ),
    PARAMS,
)


def load(path: Path, target: Any = TARGET) -> Any:
    return load_weights(path, to_dict(tiny.MODEL), target)


def assert_equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save_weights(tmp_path / "out", PARAMS, ABOUT)


@pytest.mark.parametrize("stacked", [True, False])
def test_what_is_written_is_read_bit_for_bit(tmp_path: Path, stacked: bool) -> None:
    path = save_weights(tmp_path, PARAMS, ABOUT, stacked=stacked)
    assert_equal(load(path), PARAMS)
    assert dataclasses.replace(read_about(path), sha256={}) == ABOUT


def test_other_libraries_read_the_tensors_by_the_paths_of_the_tree(saved: Path) -> None:
    tensors = safetensors.numpy.load_file(saved)
    assert sorted(tensors) == sorted(leaves_by_path(PARAMS, "."))
    assert_equal(tensors["layers.mlp.up.kernel"], PARAMS["layers"]["mlp"]["up"]["kernel"])


def test_unstacked_each_layer_has_tensors_of_its_own(tmp_path: Path) -> None:
    tensors = safetensors.numpy.load_file(save_weights(tmp_path, PARAMS, ABOUT, stacked=False))
    kernel = PARAMS["layers"]["mlp"]["up"]["kernel"]
    for layer in range(tiny.MODEL.layers):
        assert_equal(tensors[f"layers.{layer}.mlp.up.kernel"], kernel[layer])
    assert "layers.mlp.up.kernel" not in tensors


def test_the_same_weights_are_the_same_bytes(tmp_path: Path, saved: Path) -> None:
    for index in range(5):
        again = save_weights(tmp_path / str(index), PARAMS, ABOUT)
        assert again.read_bytes() == saved.read_bytes()


def test_arrays_that_are_views_of_others_are_written_as_they_look(tmp_path: Path) -> None:
    turned = jax.tree.map(lambda leaf: np.asfortranarray(leaf[::-1])[::-1], PARAMS)
    assert_equal(load(save_weights(tmp_path, turned, ABOUT)), PARAMS)


def test_the_description_beside_the_tensors_has_the_hash_that_sha256sum_prints(saved: Path) -> None:
    described = json.loads(saved.with_suffix(".json").read_text())
    assert described["file_sha256"] == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert (described["step"], described["model"]) == (12, to_dict(tiny.MODEL))


def test_a_write_that_fails_leaves_nothing_half_done(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = saved.read_bytes()

    def full(tensors: Any, path: Path, *_: Any) -> None:
        path.write_bytes(b"half")
        raise safetensors.SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(DiskError, match=r"out takes no more \(No space left on device\): make"):
        save_weights(saved.parent, PARAMS, ABOUT)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == ["model.safetensors"]


def test_they_are_laid_out_on_the_mesh_that_is_asked_for(saved: Path) -> None:
    mesh = make_mesh(MeshConfig(fsdp=4, tensor=2))
    target = abstract_state(tiny.TASK, optax.identity(), mesh).params
    loaded = load(saved, target)
    assert_equal(loaded, PARAMS)
    assert all(jax.tree.leaves(jax.tree.map(lambda x, y: x.sharding == y.sharding, loaded, target)))


# What is damaged, or does not fit.


def test_no_damaged_byte_is_let_in(saved: Path) -> None:
    whole = saved.read_bytes()
    (header,) = struct.unpack("<Q", whole[:8])
    rng = np.random.default_rng(0)
    for place in [*range(8), *rng.integers(8, header, 60), *rng.integers(header, len(whole), 60)]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        saved.write_bytes(damaged)
        with pytest.raises(WeightsError, match=r"model.safetensors"):
            load(saved)


@pytest.mark.parametrize("size", [0, 7, 8, 100, -1])
def test_a_truncated_file_is_refused(saved: Path, size: int) -> None:
    saved.write_bytes(saved.read_bytes()[:size])
    with pytest.raises(WeightsError, match=r"model.safetensors cannot be read as safetensors"):
        load(saved)


def test_a_damaged_tensor_is_named(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 1
    saved.write_bytes(content)
    last = max(leaves_by_path(PARAMS, "."))
    with pytest.raises(WeightsError, match=f"{last} is not what was written; copy or export it"):
        load(saved)


def test_a_file_without_checksums_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    safetensors.numpy.save_file(leaves_by_path(PARAMS, "."), path)
    with pytest.raises(WeightsError, match=r"no checksums .*: write it with `save_we"):
        load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"nowhere.safetensors cannot be read .*No such file"):
        load(tmp_path / "nowhere.safetensors")


WIDTH, VOCABULARY = PARAMS["head"]["kernel"].shape
OTHERS = {
    "a missing one": (
        {n: tree for n, tree in PARAMS.items() if n != "head"},
        "holds no head.kernel",
    ),
    "one too many": (
        PARAMS | {"bias": {"kernel": np.ones(3, np.float32)}},
        "holds more .*: 'bias.kernel'",
    ),
    "another shape": (
        PARAMS | {"head": {"kernel": np.ones((WIDTH, 3), np.float32)}},
        rf"head.kernel has shape \({WIDTH}, 3\), and this model needs \({WIDTH}, {VOCABULARY}\)",
    ),
    "another dtype": (
        PARAMS | {"head": {"kernel": PARAMS["head"]["kernel"].astype(ml_dtypes.bfloat16)}},
        "head.kernel has dtype BF16, and this model needs F32",
    ),
}


@pytest.mark.parametrize("stacked", [True, False])
@pytest.mark.parametrize("what", OTHERS)
def test_a_tensor_that_does_not_fit_is_named(tmp_path: Path, what: str, stacked: bool) -> None:
    params, message = OTHERS[what]
    path = save_weights(tmp_path, params, ABOUT, stacked=stacked)
    with pytest.raises(WeightsError, match=f"model.safetensors.* {message}"):
        load(path)


@pytest.mark.parametrize("layers", [1, 3])
def test_another_number_of_layers_does_not_fit(tmp_path: Path, layers: int) -> None:
    fewer = jax.tree.map(lambda leaf: np.repeat(leaf[:1], layers, 0), PARAMS["layers"])
    for stacked in (True, False):
        path = save_weights(tmp_path, {**PARAMS, "layers": fewer}, ABOUT, stacked=stacked)
        with pytest.raises(WeightsError, match="layers"):
            load(path)


def test_numbers_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    kernel = PARAMS["head"]["kernel"].copy()
    kernel[0, 0] = np.nan
    path = save_weights(tmp_path, PARAMS | {"head": {"kernel": kernel}}, ABOUT)
    with pytest.raises(WeightsError, match=r"head.kernel has numbers that are not finite; take an"):
        load(path)


HOSTILE = "\x1b[2J\nall is well" * 100


def write_hostile_name(folder: Path) -> Path:
    return save_weights(folder, PARAMS | {HOSTILE: {"kernel": np.ones(3, np.float32)}}, ABOUT)


def write_hostile_setting(folder: Path) -> Path:
    model = ABOUT.model | {"rope_theta": HOSTILE}
    return save_weights(folder, PARAMS, dataclasses.replace(ABOUT, model=model))


def write_hostile_offset(folder: Path) -> Path:
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [9, 5]}
    header = json.dumps({HOSTILE: tensor}).encode()
    path = folder / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header)
    return path


@pytest.mark.parametrize("write", [write_hostile_name, write_hostile_setting, write_hostile_offset])
def test_what_stands_in_a_file_stays_text(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    with pytest.raises(WeightsError) as refused:
        load(write(tmp_path))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000


def test_a_model_that_computes_another_function_is_refused(saved: Path) -> None:
    other = dataclasses.replace(tiny.MODEL, rope_theta=500_000.0)
    with pytest.raises(
        WeightsError, match=r"rope_theta=10000.0, and this .* set --model.rope-theta 10000.0"
    ):
        load_weights(saved, to_dict(other), TARGET)


# Out of a run, and into another.


def checkpoint(folder: Path, *steps: int) -> Path:
    """A run's folder with checkpoints, in each of which the parameters are their step's."""
    config = tiny.run_config(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_config(folder / "config.json", config)
    saves = Checkpointer(
        folder / "checkpoints", config_hash=config_hash(config), fingerprint="", seed=0, keep=9
    )
    for step in steps:
        saves.save(
            step,
            TrainState(jax.numpy.int32(step), tiny.params(step), {"mu": PARAMS}),
            NOTHING_SPENT,
        )
    saves.close()
    return folder


def test_the_newest_checkpoint_is_exported_or_the_one_of_a_step(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", 4, 12)
    assert_equal(load(export_weights(run, tmp_path / "newest")), tiny.params(12))
    path = export_weights(run, tmp_path / "fourth", step=4, stacked=False)
    assert_equal(load(path), tiny.params(4))
    about = read_about(path)
    assert (about.step, about.config_hash) == (4, config_hash(tiny.run_config(run)))


def damage(checkpoint: Path) -> None:
    file = max(checkpoint.rglob("*"), key=lambda path: path.stat().st_size * path.is_file())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_passed_over_and_left_in_its_place(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", 4, 12)
    damage(run / "checkpoints" / "12")
    assert_equal(load(export_weights(run, tmp_path / "out")), tiny.params(4))
    with pytest.raises(ValueError, match=r"no whole checkpoint of step 12: that of 12 is damaged"):
        export_weights(run, tmp_path / "out", step=12)
    assert (run / "checkpoints" / "12").exists()


def test_a_copy_with_the_name_of_another_step_is_refused(tmp_path: Path) -> None:
    run = checkpoint(tmp_path / "run", 4)
    shutil.copytree(run / "checkpoints" / "4", run / "checkpoints" / "12")
    with pytest.raises(ValueError, match=r"checkpoints/12 holds the state of step 4: give it that"):
        export_weights(run, tmp_path / "out")


def test_a_run_that_cannot_be_exported_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no run: it has no config.json"):
        export_weights(tmp_path, tmp_path / "out")
    run = checkpoint(tmp_path / "run")
    with pytest.raises(ValueError, match="holds no whole checkpoint: there is none"):
        export_weights(run, tmp_path / "out")
    checkpoint(run, 4)
    with pytest.raises(ValueError, match="checkpoint of step 5: those there are of steps 4"):
        export_weights(run, tmp_path / "out", step=5)
    (run / "config.json").write_text('{"model": {"layers": "two"}}')
    with pytest.raises(
        ValueError, match=r"config.json is damaged: the configuration is of kind None"
    ):
        export_weights(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").touch()
    checkpoint(run)
    with pytest.raises(ValueError, match=r"out cannot be written to \(Not a directory\): choose"):
        export_weights(run, tmp_path / "out")


@pytest.mark.slow
def test_a_run_goes_on_from_imported_weights_at_their_loss_to_the_last_bit(tmp_path: Path) -> None:
    first = tiny.run_config(tmp_path / "cache", steps=4)
    task = task_of(first)
    program = build_program(first, task)
    ended = train(first, tmp_path / "first", program=program, task=task)
    path = export_weights(tmp_path / "first", tmp_path / "out")

    second = dataclasses.replace(first, seed=1)
    import_weights(path, second, tmp_path / "second")
    assert json.loads((tmp_path / "second" / IMPORTED).read_text())["step"] == 4
    train(second, tmp_path / "second", program=program, task=task)
    records = read_records(tmp_path / "second" / RECORDS)
    evaluations = [record for record in records if isinstance(record, EvalRecord)]
    assert (evaluations[0].step, evaluations[0].loss) == (0, ended.val_loss)
    assert evaluations[-1].loss < ended.val_loss
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert [record.weights for record in records if isinstance(record, RunRecord)] == [digest]

    with pytest.raises(ValueError, match="holds a run that has begun: choose another --out"):
        import_weights(path, second, tmp_path / "second")
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    (tmp_path / "second" / RECORDS).unlink()
    with pytest.raises(ValueError, match="began with imported weights, and no checkpoint of it is"):
        train(second, tmp_path / "second", program=program, task=task)


def test_weights_that_do_not_fit_leave_no_folder(tmp_path: Path, saved: Path) -> None:
    config = tiny.run_config(tmp_path / "cache")
    wider = dataclasses.replace(config, model=dataclasses.replace(tiny.MODEL, d_ff=64))
    with pytest.raises(WeightsError, match="has shape"):
        import_weights(saved, wider, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_an_import_that_was_interrupted_can_be_made_again(tmp_path: Path, saved: Path) -> None:
    config, folder = tiny.run_config(tmp_path / "cache"), tmp_path / "run"
    claim(folder, config)
    (folder / IMPORTED).write_text("{}")
    with pytest.raises(ValueError, match=r"weights.json is damaged \(it has no field 'sha256'\)"):
        imported_weights(folder)
    import_weights(saved, config, folder)
    assert_equal(load(export_weights(folder, tmp_path / "again")), PARAMS)
