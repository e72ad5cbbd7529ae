"""A population: its members are the runs that they would be alone, together in one program."""

import dataclasses
import itertools
import os
import shutil
import signal

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import models
from tests.support import tiny
from train.config.plain import config_hash
from train.config.run import MeshConfig
from train.data import open_dataset
from train.host.signals import Interrupted
from train.optimizers import Aardvark, AdamW, AdEMAMix, Lion, Muon, StratOpt
from train.records.lines import EvalRecord, StepRecord, read_records
from train.run.checkpoints import Checkpointer, CheckpointError
from train.run.folder import finished, held
from train.run.population import build_population, populations, train_population
from train.run.population.members import (
    check_together,
    differing_numbers,
    free_numbers,
    settings,
)
from train.run.train import StuckError, train
from train.step.optimizer import build_optimizer
from train.step.state import TrainState
from train.step.train_step import make_train_step
from train.tasks import task_of

VARIED = {
    AdamW: [{"b1": 0.8, "weight_decay": 0.0}, {"learning_rate": 2e-3, "b2": 0.95, "eps": 1e-6}],
    StratOpt: [
        {"b1": 0.8, "scale_bounds": (0.5, 2.0), "layer_clip": 0.2},
        {"learning_rate": 1e-3, "b2": 0.95, "reference_decay": 0.9, "weight_decay": 0.0},
    ],
    Aardvark: [{"head": 1.0, "attention": 2.0}, {"learning_rate": 2e-3, "b2": 0.95, "clip": 0.1}],
    AdEMAMix: [{"b2": 0.95, "alpha": 2.0}, {"learning_rate": 2e-3, "weight_decay": 0.0}],
    Lion: [{"b1": 0.8, "weight_decay": 0.0}, {"learning_rate": 3e-4, "b2": 0.95}],
}
"""How the second and the third member differ from the first."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def members_of(kind, cache):
    """Three members, of which the last two share a seed."""
    (base,) = [optimizer for optimizer in tiny.OPTIMIZERS if isinstance(optimizer, kind)]
    first = tiny.run_config(cache, optimizer=base)
    others = [dataclasses.replace(base, **changes) for changes in VARIED[kind]]
    return [first, *(dataclasses.replace(first, optimizer=o, seed=1) for o in others)]


def nine_members(kind, cache):
    """Each of the three on three seeds: three members on each of three devices."""
    first, *others = members_of(kind, cache)
    return [dataclasses.replace(c, seed=seed) for seed in range(3) for c in (first, *others)]


def initial_state(config, transformation):
    params = jax.jit(models.init, static_argnums=0)(config.model, jax.random.key(config.seed))
    return TrainState(jnp.zeros((), jnp.int32), params, transformation.init(params))


def check_member_is_a_run_of_its_own(kind, cache, side_by_side, compared, steps=6):
    configs = nine_members(kind, cache)
    program = build_population(configs, task_of(configs[0]), side_by_side=side_by_side)
    assert program.mesh.size == 3
    dataset = open_dataset(configs[0].data)
    batches = {
        seed: list(itertools.islice(dataset.train_batches(8, 16, seed=seed), steps))
        for seed in range(3)
    }
    state, losses = program.init(), []
    for step in range(steps):
        state, metrics = program.train_step(state, [batches[seed][step] for seed in program.seeds])
        losses.append(jax.device_get(metrics["loss"]))
    for member in compared:
        config = configs[member]
        built = build_optimizer(config.optimizer, config.schedule, config.steps)
        alone = initial_state(config, built.transformation)
        take_step = jax.jit(make_train_step(task_of(config), built))
        for step in range(steps):
            alone, metrics = take_step(alone, batches[config.seed][step])
            np.testing.assert_allclose(losses[step][member], metrics["loss"], rtol=1e-5)
        own = jax.tree.map(lambda values, member=member: values[member], state.params)
        chex.assert_trees_all_close(own, alone.params, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(("kind", "side_by_side"), [(StratOpt, True), (Aardvark, False)])
def test_a_member_takes_the_steps_of_a_run_of_its_own(kind, side_by_side, cache):
    check_member_is_a_run_of_its_own(kind, cache, side_by_side, compared=[5])


@pytest.mark.slow
@pytest.mark.parametrize("side_by_side", [True, False], ids=["side by side", "one by one"])
@pytest.mark.parametrize("kind", VARIED)
def test_every_member_takes_the_steps_of_a_run_of_its_own(kind, side_by_side, cache):
    check_member_is_a_run_of_its_own(kind, cache, side_by_side, compared=[0, 4, 8])


DIVERGING = 3


@pytest.fixture(scope="module")
def configs(cache):
    """Members of AdamW, the last of which diverges."""
    members = members_of(AdamW, cache)
    wild = dataclasses.replace(members[0].optimizer, learning_rate=1e30)
    members.append(dataclasses.replace(members[0], optimizer=wild))
    return [dataclasses.replace(member, max_consecutive_skips=3) for member in members]


@pytest.fixture(scope="module")
def program(configs):
    return build_population(configs, task_of(configs[0]))


def folders_in(out):
    return [out / f"member-{position}" for position in range(4)]


def train_in(out, configs, program, **options):
    return train_population(
        configs, folders_in(out), checkpoints=out / "checkpoints", program=program, **options
    )


@pytest.fixture(scope="module")
def undisturbed(configs, program, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train_in(out, configs, program)
    return out


def lines_of(folder):
    """Records as dictionaries, less the times and what is a share of the population's."""
    left_out = {"seconds", "device_seconds", "started", "tokens_per_second", "mfu", "peak_bytes"}
    return [
        {name: value for name, value in vars(record).items() if name not in left_out}
        for record in read_records(folder / "records.jsonl")
    ]


def check_lines_agree(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        (values, structure), (others, expected) = jax.tree.flatten(one), jax.tree.flatten(other)
        assert structure == expected
        for value, wanted in zip(values, others, strict=True):
            if isinstance(value, float):
                wanted = pytest.approx(wanted, rel=1e-4, abs=1e-6, nan_ok=True)
            assert value == wanted


def test_a_member_leaves_the_folder_of_a_run_of_its_own(undisturbed, configs, tmp_path):
    final = train(configs[1], tmp_path)
    folder = folders_in(undisturbed)[1]
    assert (folder / "config.json").read_bytes() == (tmp_path / "config.json").read_bytes()
    check_lines_agree(lines_of(folder), lines_of(tmp_path))
    found = finished(folder, configs[1])
    assert found.val_loss == pytest.approx(final.val_loss, rel=1e-5)
    assert found.state_bytes_per_parameter == final.state_bytes_per_parameter


def test_a_members_seconds_are_its_share(undisturbed):
    finals = [read_records(folder / "records.jsonl")[-1] for folder in folders_in(undisturbed)]
    assert len({final.seconds for final in finals[:DIVERGING]}) == 1
    assert finals[0].tokens_per_second == pytest.approx(finals[0].tokens / finals[0].seconds)
    assert finals[0].device_seconds == pytest.approx(finals[0].seconds * 4)


def test_a_diverging_member_ends_and_the_others_go_on(undisturbed, configs):
    *others, wild = [read_records(folder / "records.jsonl") for folder in folders_in(undisturbed)]
    assert wild[-1].diverged
    assert wild[-1].step < configs[0].steps
    assert wild[-1].skipped == wild[-2].skipped == configs[0].max_consecutive_skips
    for records in others:
        assert [r.step for r in records if isinstance(r, StepRecord)] == [2, 4, 6, 8, 10, 12]
        assert [r.step for r in records if isinstance(r, EvalRecord)] == [0, 4, 8, 12]
        assert not records[-1].diverged


@pytest.mark.slow
def test_a_diverging_member_leaves_what_it_would_leave_alone(undisturbed, configs, tmp_path):
    with pytest.raises(StuckError, match="3 steps in a row were not finite"):
        train(configs[DIVERGING], tmp_path)
    check_lines_agree(lines_of(folders_in(undisturbed)[DIVERGING]), lines_of(tmp_path))


@pytest.mark.slow
def test_a_member_that_no_guard_keeps_finite_leaves_what_it_would_leave_alone(cache, tmp_path):
    wild = Aardvark(learning_rate=1e30, nonfinite=None)
    calm = dataclasses.replace(wild, learning_rate=1e-2)
    configs = [tiny.run_config(cache, optimizer=o, log_every=3) for o in (wild, calm)]
    folders = [tmp_path / name for name in ("wild", "calm")]
    finals = train_population(configs, folders, checkpoints=tmp_path / "checkpoints")
    assert [(final.step, final.diverged) for final in finals] == [(4, True), (12, False)]
    with pytest.raises(StuckError, match="parameters are no longer finite"):
        train(configs[0], tmp_path / "alone")
    check_lines_agree(lines_of(folders[0]), lines_of(tmp_path / "alone"))


def checkpoint_in(out, configs, program):
    checkpointer = Checkpointer(
        out / "checkpoints",
        config_hash=config_hash(tuple(configs)),
        fingerprint=open_dataset(configs[0].data).fingerprint,
        seed=configs[0].seed,
    )
    restored = checkpointer.restore(program.target)
    checkpointer.close()
    return restored.state


def check_same_population(out, undisturbed, configs, program):
    chex.assert_trees_all_equal(
        checkpoint_in(out, configs, program), checkpoint_in(undisturbed, configs, program)
    )
    for ours, theirs in zip(folders_in(out), folders_in(undisturbed), strict=True):
        assert repr(lines_of(ours)) == repr(lines_of(theirs))  # NaN is not equal to itself.


@pytest.mark.parametrize("stop_after", [1, 6, 10])
def test_a_population_that_was_stopped_ends_in_the_same_bits(
    stop_after, configs, program, undisturbed, tmp_path
):
    def interrupt(progress):
        if progress.step == stop_after:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(Interrupted, match="SIGINT"):
        train_in(tmp_path, configs, program, on_progress=interrupt)
    train_in(tmp_path, configs, program)
    check_same_population(tmp_path, undisturbed, configs, program)


def test_a_crash_loses_at_most_the_steps_since_the_last_checkpoint(
    configs, program, undisturbed, tmp_path
):
    def crash(progress):
        if progress.step == 7:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train_in(tmp_path, configs, program, on_progress=crash)
    steps = []
    train_in(tmp_path, configs, program, on_progress=lambda p: steps.append(p.step))
    assert steps[0] == 5
    check_same_population(tmp_path, undisturbed, configs, program)


def test_a_crash_in_the_first_evaluation_loses_none_of_it(
    configs, program, undisturbed, tmp_path, monkeypatch
):
    def crash(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(type(program), "evaluate", crash)
        with pytest.raises(ZeroDivisionError):
            train_in(tmp_path, configs, program)
    train_in(tmp_path, configs, program)
    check_same_population(tmp_path, undisturbed, configs, program)


def test_finished_members_are_not_run_again(undisturbed, configs):
    before = [(f / "records.jsonl").read_bytes() for f in folders_in(undisturbed)]
    forbidden = object()  # would fail if the loop touched it
    finals = train_in(undisturbed, configs, forbidden, task=forbidden)
    assert [final.diverged for final in finals] == [False, False, False, True]
    assert [(f / "records.jsonl").read_bytes() for f in folders_in(undisturbed)] == before


def test_a_member_that_was_finished_alone_keeps_its_records(
    undisturbed, configs, program, tmp_path
):
    folder = folders_in(tmp_path)[1]
    shutil.copytree(folders_in(undisturbed)[1], folder)
    before = (folder / "records.jsonl").read_bytes()
    train_in(tmp_path, configs, program)
    assert (folder / "records.jsonl").read_bytes() == before
    check_same_population(tmp_path, undisturbed, configs, program)


def test_a_checkpoint_of_other_members_is_refused(undisturbed, configs, program, tmp_path):
    other = dataclasses.replace(program, configs=tuple(reversed(configs)))
    with pytest.raises(CheckpointError, match="choose another --out"):
        train_population(
            other.configs,
            folders_in(tmp_path),
            checkpoints=undisturbed / "checkpoints",
            program=other,
        )


def test_a_member_without_the_records_of_the_checkpoint_is_refused(
    undisturbed, configs, program, tmp_path
):
    with pytest.raises(ValueError, match="lacks the records of the 12 steps"):
        train_population(
            configs,
            folders_in(tmp_path),
            checkpoints=undisturbed / "checkpoints",
            program=program,
        )


def test_a_folder_in_which_another_process_is_at_work_is_refused(configs, program, tmp_path):
    with held(folders_in(tmp_path)[2]), pytest.raises(ValueError, match="another process"):
        train_in(tmp_path, configs, program)


def test_members_must_be_of_one_kind(cache):
    mixed = [tiny.run_config(cache, optimizer=kind) for kind in (AdamW(), Lion())]
    with pytest.raises(ValueError, match=r"cannot train together \(optimizer: AdamW .* Lion there"):
        build_population(mixed, tiny.TASK)


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"optimizer": AdamW(b1=0.5, clip=None)}, "optimizer.clip: 2.0 here, None there"),
        ({"steps": 13}, "steps: 12 here, 13 there"),
    ],
    ids=["a part switched off", "another length"],
)
def test_what_decides_the_program_must_agree(changes, difference, cache):
    first = tiny.run_config(cache, optimizer=AdamW(clip=2.0))
    with pytest.raises(ValueError, match=difference):
        build_population([first, dataclasses.replace(first, **changes)], tiny.TASK)


def test_a_number_out_of_its_range_is_refused_though_the_program_would_take_it(cache):
    first = tiny.run_config(cache, optimizer=StratOpt())
    wrong = dataclasses.replace(first, optimizer=StratOpt(b2=1.5))
    with pytest.raises(ValueError, match=r"b2 must lie in \[0, 1\), but it is 1.5"):
        build_population([first, wrong], tiny.TASK)


def test_a_mesh_that_splits_a_run_is_refused(cache):
    split = tiny.run_config(cache, mesh=MeshConfig(fsdp=8))
    with pytest.raises(ValueError, match=r"fsdp=8 .* on one device whole"):
        build_population([split], tiny.TASK)


def test_two_members_cannot_share_a_folder(configs, tmp_path):
    with pytest.raises(ValueError, match="4 members have 1 folders"):
        train_population(configs, [tmp_path] * 4, checkpoints=tmp_path / "checkpoints")


def test_an_empty_population_is_refused():
    with pytest.raises(ValueError, match="has no members"):
        build_population([], tiny.TASK)


def test_runs_are_dealt_out_to_those_that_they_can_train_with(cache):
    optimizers = [
        AdamW(),
        AdamW(clip=None),
        Muon(ns_steps=4),
        AdamW(learning_rate=1e-2, clip=3.0),
        Muon(ns_steps=5),
        AdamW(b1=0.5),
    ]
    runs = [
        tiny.run_config(cache, optimizer=optimizer, seed=seed)
        for seed in range(2)
        for optimizer in optimizers
    ]
    assert populations(runs, size=4) == [[0, 3, 5, 6], [9, 11], [1, 7], [2, 8], [4, 10]]
    for together in populations(runs, size=100):
        check_together([runs[position] for position in together])
    with pytest.raises(ValueError, match="size=0"):
        populations(runs, size=0)


@pytest.mark.parametrize("optimizer", tiny.OPTIMIZERS, ids=tiny.optimizer_name)
def test_members_may_differ_in_all_numbers_that_a_program_can_take(optimizer):
    floats = {name for name, value in settings(optimizer).items() if isinstance(value, float)}
    known_in_python = {"b1", "b3"} if isinstance(optimizer, AdEMAMix) else set()
    assert floats - set(free_numbers(optimizer)) <= known_in_python


def test_normalized_multipliers_must_agree():
    """Their mean over the parameters is taken before there is a program."""
    free = free_numbers(Aardvark(scaling="normalized"))
    assert not {"embedding", "attention", "mlp", "head"} & set(free)
    assert "learning_rate" in free


def test_only_numbers_that_differ_become_arguments():
    members = [StratOpt(b2=0.9), StratOpt(b2=0.99, scale_bounds=(0.1, 5.0))]
    found = differing_numbers(members)
    chex.assert_trees_all_close(
        found,
        {"b2": np.float32([0.9, 0.99]), "scale_bounds/1": np.float32([10.0, 5.0])},
    )
