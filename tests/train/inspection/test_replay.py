"""A step can be seen again: the same bits, which rows it read, and what each did to the loss."""

import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.support import tiny
from tests.support.poison import PoisonedData
from tests.train.run.test_weights import ABOUT
from train.cli import main
from train.config.plain import to_dict
from train.config.run import MeshConfig
from train.data import open_dataset
from train.inspection.replay import replay
from train.optimizers import Aardvark
from train.records.lines import StepRecord, read_records
from train.run.train import train
from train.run.transfer import import_weights
from train.run.weights import save_weights
from train.step.program import build_program
from train.tasks import task_of
from train.tasks.language_model import language_model

pytestmark = pytest.mark.faults

CONTEXT = 16


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return tiny.run_config(tmp_path_factory.mktemp("cache"), optimizer=Aardvark(learning_rate=1e-2))


@pytest.fixture(scope="module")
def program(config):
    return build_program(config, task_of(config))


@pytest.fixture(scope="module")
def folder(config, program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train(config, folder, program=program)
    return folder


@pytest.fixture(scope="module")
def tenth(folder, program):
    before = contents(folder)
    found = replay(folder, 10, program=program)
    assert contents(folder) == before  # As long as nothing else is tested: it only reads.
    return found


def contents(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def logged(folder, step):
    records = read_records(folder / "records.jsonl")
    (found,) = [line for line in records if isinstance(line, StepRecord) and line.step == step]
    return found


@pytest.mark.slow
def test_it_goes_on_from_the_checkpoint_before_and_meets_the_recorded_step(tenth, folder):
    line = logged(folder, 10)
    assert tenth.started_from == 8
    assert (tenth.loss, tenth.is_exact) == (line.loss, True)
    assert tenth.grad_norms == line.grad_norms
    assert tenth.update_norms == line.update_norms
    assert tenth.learning_rate == line.learning_rate
    assert not tenth.skipped


@pytest.mark.slow
def test_its_rows_are_those_of_the_batch_and_make_up_its_loss(tenth, config):
    dataset = open_dataset(config.data)
    batch = next(dataset.train_batches(8, CONTEXT, seed=config.seed, start_step=9))
    read = {row.number: row for row in tenth.rows}
    tokens = np.fromfile(dataset.folder / "train-00000.bin", np.uint8)
    for row in read.values():
        (place,) = row.places
        window = tokens[place.offset : place.offset + place.tokens]
        assert window.tolist() in batch.inputs_BT.tolist()
    assert len(read) == 8
    losses = [row.loss for row in tenth.rows]
    assert losses == sorted(losses, reverse=True)
    np.testing.assert_allclose(np.mean(losses), tenth.loss, rtol=1e-6)
    assert all(row.worst_loss >= row.loss for row in tenth.rows)


@pytest.mark.slow
def test_an_excerpt_ends_with_the_worst_token(tenth, config):
    dataset = open_dataset(config.data)
    stream = dataset.tokenizer.decode(np.fromfile(dataset.folder / "train-00000.bin", np.uint8))
    assert all(row.excerpt in stream for row in tenth.rows)


@pytest.mark.slow
def test_the_layers_gradients_add_up_to_the_global_norm(tenth):
    norms = list(tenth.layers.values())
    assert norms == sorted(norms, reverse=True)
    assert "layers/mlp/up/kernel[1]" in tenth.layers
    np.testing.assert_allclose(np.linalg.norm(norms), tenth.grad_norm, rtol=1e-5)


@pytest.mark.slow
def test_before_the_oldest_checkpoint_it_starts_from_the_start(folder, program):
    first = replay(folder, 2, program=program)
    assert (first.started_from, first.is_exact) == (0, True)
    assert first.recorded_loss == logged(folder, 2).loss


@pytest.mark.slow
def test_a_step_that_was_not_logged_has_nothing_to_be_compared_with(folder, program):
    assert replay(folder, 11, program=program).is_exact is None


@pytest.mark.slow
def test_a_run_that_has_not_come_summary_is_stepped_on(folder, program, tmp_path):
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    ahead = replay(tmp_path, 2, program=program)
    assert (ahead.started_from, ahead.recorded_loss) == (0, None)
    assert ahead.loss == logged(folder, 2).loss


@pytest.mark.slow
def test_a_loss_that_is_no_number_is_met_again(config, program, tmp_path, monkeypatch):
    data = PoisonedData(open_dataset(config.data), {5: (3, np.nan)})
    task = language_model(config, data)
    train(config, tmp_path, program=program, task=task)
    found = replay(tmp_path, 5, program=dataclasses.replace(program, task=task))
    assert np.isnan([found.loss, found.recorded_loss, found.rows[0].loss]).all()
    assert np.isfinite([row.loss for row in found.rows[1:]]).all()
    assert (found.skipped, found.is_exact) == (True, True)


@pytest.mark.slow
def test_a_run_of_imported_weights_begins_with_them_or_not_at_all(config, program, tmp_path):
    weights = save_weights(tmp_path, tiny.params(), ABOUT)
    import_weights(weights, config, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "again")
    train(config, tmp_path / "run", program=program)
    with pytest.raises(ValueError, match=r"imported weights, and no .* before step 2 is left: imp"):
        replay(tmp_path / "run", 2, program=program)
    again = replay(tmp_path / "again", 2, program=program)
    assert again.loss == logged(tmp_path / "run", 2).loss


@pytest.mark.slow
def test_the_command_prints_tables_or_json(folder, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    main.main(["replay", str(folder), "--step", "10"])
    said = capsys.readouterr().out
    assert "from checkpoint 8" in said
    assert "exact" in said
    assert "train-00000.bin @" in said
    main.main(["replay", str(folder), "--step", "10", "--json"])
    fields = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert fields["is_exact"] is True
    assert fields["rows"][0]["places"][0]["shard"] == "train-00000.bin"


@pytest.mark.parametrize(
    ("step", "change", "sentence"),
    [
        (0, {}, r"--step 0: the steps of .* are 1 to 12\."),
        (13, {}, r"--step 13: the steps of .* are 1 to 12\."),
        (1, {"mesh": MeshConfig(data=3)}, "the 8 devices here cannot make: replay it on as many"),
    ],
)
def test_what_cannot_be_replayed_is_refused(config, tmp_path, step, change, sentence):
    changed = dataclasses.replace(config, **change)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(changed)))
    with pytest.raises(ValueError, match=sentence):
        replay(tmp_path, step)


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no run"):
        replay(tmp_path, 1)


@pytest.mark.slow
def test_other_data_than_the_runs_is_refused(config, folder, tmp_path):
    other = dataclasses.replace(config.data, validation_fraction=0.3)
    changed = dataclasses.replace(config, data=other)
    (tmp_path / "config.json").write_text(json.dumps(to_dict(changed)))
    (tmp_path / "records.jsonl").write_bytes((folder / "records.jsonl").read_bytes())
    with pytest.raises(ValueError, match="holds other data than"):
        replay(tmp_path, 2)


def test_packed_rows_tell_each_of_their_documents(config):
    dataset = open_dataset(dataclasses.replace(config.data, packing="documents"))
    batch = next(dataset.train_batches(8, CONTEXT, seed=3, start_step=5))
    tokens = np.fromfile(dataset.folder / "train-00000.bin", np.uint8)
    read = dataset.train_places(8, CONTEXT, seed=3, step=5)
    for (_, places), inputs_T, segments_T in zip(
        read, batch.inputs_BT, batch.segment_ids_BT, strict=True
    ):
        assert len(places) == segments_T.max()
        pieces = [tokens[place.offset : place.offset + place.tokens] for place in places]
        assert np.concatenate(pieces).tolist() == inputs_T[segments_T > 0].tolist()
