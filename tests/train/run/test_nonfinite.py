"""Gradients that are not finite never enter a run's state: their batch is passed over."""

import dataclasses
import itertools
import json
import math
import os

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from optax_strat import (
    SkipNonfiniteState,
    dynamic_loss_scale,
    find_states,
    loss_scale,
    skip_counts,
)
from tests.support import tiny
from tests.support.poison import LEAVES, PoisonedData, poisoned, spoil_gradients
from train.cli import main
from train.config.plain import config_hash
from train.config.run import MeshConfig
from train.data import open_dataset
from train.optimizers import Aardvark, AdamW, StratOpt
from train.records.lines import EvalRecord, FinalRecord, SpikeRecord, StepRecord, read_records
from train.run.checkpoints import Checkpointer
from train.run.train import StuckError, train
from train.step.optimizer import build_optimizer
from train.step.program import build_program
from train.step.state import TrainState
from train.step.train_step import make_train_step
from train.tasks import task_of
from train.tasks.language_model import language_model
from train.tasks.loss import batch_loss

pytestmark = pytest.mark.faults

SHARDED = MeshConfig(data=2, fsdp=4)
OPTIMIZERS = (Aardvark(learning_rate=1e-2), StratOpt(learning_rate=3e-3), AdamW(learning_rate=1e-2))
POISONS = [(leaf, value) for leaf in (*range(LEAVES), "all") for value in (np.nan, np.inf, -np.inf)]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def spoiled(monkeypatch):
    spoil_gradients(monkeypatch)


@pytest.fixture(scope="module")
def program(cache):
    """Of Aardvark, on eight devices; its batches may be poisoned."""
    with pytest.MonkeyPatch.context() as patch:
        spoil_gradients(patch)
        config = tiny.run_config(cache, optimizer=OPTIMIZERS[0], mesh=SHARDED)
        return build_program(config, task_of(config))


def as_bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def guarded(opt_state):
    """What a skipped step must not change: all of the state but the guard's counters."""
    (guard,) = find_states(opt_state, SkipNonfiniteState)
    return guard.inner_state


def batches_of(config, poisons=()):
    return PoisonedData(open_dataset(config.data), dict(poisons)).train_batches(
        config.batch_size, config.context, seed=config.seed
    )


def records_of(folder, kind):
    return [line for line in read_records(folder / "records.jsonl") if isinstance(line, kind)]


def check_no_poison_moves_anything(config, make_step, state):
    batches = batches_of(config)
    second_rate = build_optimizer(config.optimizer, config.schedule, config.steps).schedule(1)
    state, _ = make_step(state, next(batches))  # Moments that are not zero.
    for skips, (leaf, value) in enumerate(POISONS, 1):
        before = as_bits((state.params, guarded(state.opt_state)))
        state, metrics = make_step(state, poisoned(next(batches), leaf, value))
        assert as_bits((state.params, guarded(state.opt_state))) == before, (leaf, value)
        assert math.isfinite(metrics["loss"])
        assert not math.isfinite(metrics["grad_norm"])
        assert skip_counts(state.opt_state) == (skips, skips)
        assert int(state.step) == 1 + skips
        np.testing.assert_allclose(metrics["learning_rate"], second_rate)  # The schedule waits.
    state, metrics = make_step(state, next(batches))
    assert skip_counts(state.opt_state) == (len(POISONS), 0)
    assert math.isfinite(metrics["grad_norm"])


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=tiny.optimizer_name)
def test_one_bad_entry_of_any_leaf_stops_the_step_of_all_of_them(optimizer, cache, spoiled):
    config = tiny.run_config(cache, optimizer=optimizer)
    built = build_optimizer(config.optimizer, config.schedule, config.steps)
    params = tiny.params()
    state = TrainState(jnp.zeros((), jnp.int32), params, built.transformation.init(params))
    check_no_poison_moves_anything(config, jax.jit(make_train_step(task_of(config), built)), state)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=tiny.optimizer_name)
def test_one_bad_shard_stops_the_step_on_all_devices(optimizer, cache, spoiled):
    config = tiny.run_config(cache, optimizer=optimizer, mesh=SHARDED)
    program = build_program(config, task_of(config))
    check_no_poison_moves_anything(config, program.train_step, program.init(seed=0))


def checkpointed(folder, config, program, step):
    checkpointer = Checkpointer(
        folder / "checkpoints",
        config_hash=config_hash(config),
        fingerprint=open_dataset(config.data).fingerprint,
        seed=config.seed,
    )
    restored = checkpointer.restore(program.target)
    checkpointer.close()
    assert int(restored.state.step) == step
    return restored.state


def check_a_run_passes_over_poisoned_batches(config, program, poisons, folder):
    """That its state is that of a run made by hand, to which the other batches were given."""
    data = PoisonedData(open_dataset(config.data), poisons)
    final = train(config, folder, program=program, task=language_model(config, data))
    by_hand = program.init(config.seed)
    for number, batch in enumerate(itertools.islice(batches_of(config), config.steps), 1):
        if number not in poisons:
            by_hand, _ = program.train_step(by_hand, batch)
    after = checkpointed(folder, config, program, config.steps)
    assert as_bits((after.params, guarded(after.opt_state))) == as_bits(
        (by_hand.params, guarded(by_hand.opt_state))
    )
    assert skip_counts(after.opt_state).total == final.skipped == len(poisons)


@pytest.mark.slow
def test_a_run_with_poisoned_batches_is_one_without_them_and_its_records_say_so(program, tmp_path):
    folder, config = tmp_path, program.config
    poisons = {5: (3, np.nan), 6: ("all", np.inf), 11: (LEAVES - 1, -np.inf)}
    check_a_run_passes_over_poisoned_batches(config, program, poisons, folder)
    steps = records_of(folder, StepRecord)
    assert [(line.step, line.skipped) for line in steps] == [
        (2, 0), (4, 0), (6, 2), (8, 2), (10, 2), (12, 3)
    ]  # fmt: skip
    updates_before = [1, 3, 4, 5, 7, 8]
    schedule = build_optimizer(config.optimizer, config.schedule, config.steps).schedule
    np.testing.assert_allclose(
        [line.learning_rate for line in steps], [schedule(n) for n in updates_before], rtol=1e-6
    )
    assert [(line.step, line.skipped) for line in records_of(folder, SpikeRecord)] == [
        (5, True), (11, True)
    ]  # fmt: skip
    assert not records_of(folder, FinalRecord)[0].diverged


@pytest.mark.torture
@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_any_poisons_in_any_steps_of_any_optimizer_are_passed_over(
    optimizer, cache, spoiled, tmp_path
):
    seed = int.from_bytes(os.urandom(4))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    config = tiny.run_config(cache, optimizer=optimizer, mesh=SHARDED)
    program = build_program(config, task_of(config))
    for number in range(5):
        steps = rng.choice(np.arange(1, 13), size=rng.integers(1, 7), replace=False).tolist()
        poisons = {step: POISONS[rng.integers(len(POISONS))] for step in steps}
        folder = tmp_path / str(number)
        check_a_run_passes_over_poisoned_batches(config, program, poisons, folder)


@pytest.mark.slow
def test_a_stuck_run_ends_with_status_1_each_time_and_its_checkpoint_is_good(
    program, tmp_path, monkeypatch, capsys
):
    config = dataclasses.replace(program.config, max_consecutive_skips=3, log_every=5)
    data = PoisonedData(open_dataset(config.data), dict.fromkeys(range(6, 13), ("all", np.nan)))

    def run_command() -> None:
        """Trains."""
        train(config, tmp_path / "run", program=program, task=language_model(config, data))

    monkeypatch.setitem(main.__dict__, "COMMANDS", {"run": run_command})
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.chdir(tmp_path)
    sentences = [
        "stuck: step 8: the gradients of 3 steps in a row were not finite, and no parameter has "
        "changed since step 5. Lower --optimizer.learning-rate=0.01, or see the data.",
        "stuck: run holds a run that got stuck at step 8 of 12: move it away, or choose another "
        "--out.",
    ]
    for sentence in sentences:
        with pytest.raises(SystemExit) as end:
            main.main(["run"])
        assert end.value.code == 1
        said = capsys.readouterr().err.replace(f"{tmp_path}/", "")
        assert said.strip() == sentence

    final = read_records(tmp_path / "run" / "records.jsonl")[-1]
    assert isinstance(final, FinalRecord)
    assert (final.step, final.skipped, final.diverged) == (8, 3, True)
    assert [(s.step, s.skipped) for s in records_of(tmp_path / "run", StepRecord)] == [
        (5, 0), (8, 3)
    ]  # fmt: skip
    good = checkpointed(tmp_path / "run", config, program, 4)  # Step 8 was not saved.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(good.params)))


@pytest.mark.slow
def test_no_checkpoint_holds_a_parameter_that_is_not_finite_even_without_a_guard(
    cache, spoiled, tmp_path
):
    optimizer = Aardvark(learning_rate=1e-2, nonfinite=None)
    config = tiny.run_config(cache, mesh=SHARDED, optimizer=optimizer, log_every=5)
    program = build_program(config, task_of(config))
    data = PoisonedData(open_dataset(config.data), {6: (0, np.nan)})
    with pytest.raises(StuckError, match=r"step 8: the .*embedding.* parameters are no longer"):
        train(config, tmp_path, program=program, task=language_model(config, data))
    good = checkpointed(tmp_path, config, program, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get(good.params)))
    assert records_of(tmp_path, FinalRecord)[0].diverged
    # The parameter is of a token that never comes: no loss and no gradient told of it.
    assert not records_of(tmp_path, SpikeRecord)


@pytest.mark.slow
def test_a_validation_loss_that_is_no_number_is_strict_json_and_a_diverged_run(
    program, tmp_path, monkeypatch
):
    monkeypatch.setattr(type(program), "evaluate", lambda *_: math.nan)
    final = train(program.config, tmp_path, program=program)
    assert final.diverged
    for line in (tmp_path / "records.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    assert all(math.isnan(line.loss) for line in records_of(tmp_path, EvalRecord))


@pytest.mark.slow
def test_parameters_that_are_not_finite_from_the_start_stop_the_run(program, tmp_path, monkeypatch):
    config = dataclasses.replace(program.config, max_consecutive_skips=3)
    init = type(program).init

    def bad_init(self, seed):
        state = init(self, seed)
        state.params["head"]["kernel"] = state.params["head"]["kernel"].at[0, 0].set(jnp.nan)
        return state

    monkeypatch.setattr(type(program), "init", bad_init)
    with pytest.raises(StuckError, match=r"step 3: .* no parameter has changed since step 0"):
        train(config, tmp_path, program=program)
    assert not any((tmp_path / "checkpoints").glob("[0-9]*"))


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=tiny.optimizer_name)
def test_an_overflow_in_float16_is_passed_over_like_any_other(optimizer, cache):
    model = dataclasses.replace(tiny.MODEL, dtype="float16")
    config = tiny.run_config(cache, model=model, optimizer=optimizer)
    built = build_optimizer(config.optimizer, config.schedule, config.steps)
    params = tiny.params()
    params["embed"]["embedding"] = 1e5 * jnp.sign(
        params["embed"]["embedding"]
    )  # 65504 is the most.
    state = TrainState(jnp.zeros((), jnp.int32), params, built.transformation.init(params))
    after, metrics = jax.jit(make_train_step(task_of(config), built))(
        state, next(batches_of(config))
    )
    assert not math.isfinite(metrics["grad_norm"])
    assert as_bits((after.params, guarded(after.opt_state))) == as_bits(
        (state.params, guarded(state.opt_state))
    )


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=tiny.optimizer_name)
def test_with_loss_scaling_the_scale_comes_down_until_float16_holds_the_gradients(optimizer, cache):
    """The trainer's own optimizers, in a step with a scaled loss as the documentation has it."""
    model = dataclasses.replace(tiny.MODEL, dtype="float16")
    config = tiny.run_config(cache, model=model, optimizer=optimizer)
    built = build_optimizer(config.optimizer, config.schedule, config.steps)
    scaled = dynamic_loss_scale(built.transformation, initial=2.0**24)

    @jax.jit
    def step(params, state, batch):
        def loss(params):
            total, weight = batch_loss(model, params, batch)
            return total / weight * loss_scale(state)

        updates, state = scaled.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    params = tiny.params()
    state, before, batches = scaled.init(params), as_bits(params), batches_of(config)
    for skips in range(1, 25):
        params, state = step(params, state, next(batches))
        if not skip_counts(state).consecutive:
            break
        assert as_bits(params) == before
        assert float(loss_scale(state)) == 2.0 ** (24 - skips)
    assert 1 < skips < 24
    assert skip_counts(state) == (skips - 1, 0)
    assert as_bits(params) != before
