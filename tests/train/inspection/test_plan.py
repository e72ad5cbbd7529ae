"""A plan says what a run needs, and agrees with the run where both can be asked."""

import dataclasses
import io

import jax
import pytest
from rich.console import Console

from tests.support import tiny
from train.config import named
from train.config.run import MeshConfig
from train.inspection.plan import make_plan
from train.inspection.tables import plan_table
from train.step.optimizer import build_optimizer
from train.step.program import build_program
from train.step.sharding import make_mesh
from train.step.state import init_state
from train.tasks import task_of
from train.tasks.activations import estimate_activations

NODE = MeshConfig(fsdp=8)


def consistent(**changes):
    return dataclasses.replace(
        named.paper_consistent(), **{"mesh": NODE, "accumulate": 1, **changes}
    )


def table_of(plan, *reported_hours):
    console = Console(width=140, file=io.StringIO(), record=True)
    console.print(plan_table(plan, *reported_hours))
    return console.export_text()


def test_the_papers_consistent_reading_has_the_figures_of_its_arithmetic():
    plan = make_plan(consistent(), utilization=0.4)
    N, V, D, L, T = 134_105_856, 32_000, 768, 12, 4096
    assert plan.memory.parameters * 8 == pytest.approx(4 * N, rel=2e-3)  # Norms are whole.
    assert plan.memory.optimizer_state == pytest.approx(2 * plan.memory.parameters, rel=1e-3)
    assert plan.budget.tokens == 640 * 1024 * 4096
    assert round(plan.budget.tokens / N) == 20
    flops = 6 * (N - V * D) + 6 * L * D * T
    assert plan.budget.flops == plan.budget.tokens * flops
    assert plan.tokens_per_second == pytest.approx(8 * 0.4 * 989e12 / flops)
    assert plan.hours * 3600 * plan.tokens_per_second == pytest.approx(plan.budget.tokens)


def test_the_literal_reading_takes_hundreds_of_a100_hours_at_full_utilization():
    plan = make_plan(dataclasses.replace(named.paper_literal(), mesh=NODE), "a100", utilization=1)
    assert 329 < 8 * plan.hours < 600


def test_the_papers_consistent_reading_fits_one_node_as_it_is_configured():
    assert make_plan(dataclasses.replace(named.paper_consistent(), mesh=NODE)).fits


def test_hours_that_no_device_can_reach_are_called_impossible():
    literal = dataclasses.replace(named.paper_literal(), mesh=NODE)
    papers_own = make_plan(literal, "a100")
    assert "impossible: 16.7 of the peak" in table_of(papers_own, 19.8)
    assert "impossible as hours of every device: 2.08" in table_of(papers_own, 19.8)
    assert papers_own.implied_utilization(papers_own.hours * 8) == pytest.approx(0.3)
    assert "possible: 0.107" in table_of(make_plan(consistent(), "a100"), 19.8)


def test_what_does_not_fit_is_told_with_a_setting_that_does():
    plan = make_plan(consistent())
    assert not plan.fits
    assert plan.way_out().startswith("--accumulate ")
    accumulate = int(plan.way_out().split()[-1])
    assert make_plan(consistent(accumulate=accumulate)).fits
    assert f"does not fit: try --accumulate {accumulate}" in " ".join(table_of(plan).split())


def test_state_on_a_device_is_what_the_run_puts_there(tmp_path):
    config = tiny.run_config(tmp_path, mesh=MeshConfig(data=2, fsdp=2, tensor=2))
    optimizer = build_optimizer(config.optimizer, config.schedule, config.steps).transformation
    state = init_state(task_of(config), optimizer, make_mesh(config.mesh), seed=0)
    plan, (first, *_) = make_plan(config), jax.devices()

    def bytes_on_the_first(tree):
        shards = [shard for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards]
        return sum(shard.data.nbytes for shard in shards if shard.device == first)

    assert plan.memory.parameters == bytes_on_the_first(state.params)
    assert plan.memory.optimizer_state == bytes_on_the_first(state.opt_state)


def test_activations_are_estimated_within_a_factor_of_two_of_the_compilers_count(tmp_path):
    config = tiny.run_config(tmp_path, batch_size=64, mesh=MeshConfig(data=8))
    program = build_program(config, task_of(config))
    gradients = 4 * sum(leaf.size for leaf in jax.tree.leaves(program.target.params))
    counted = program._train_step.memory_analysis().temp_size_in_bytes - gradients
    assert 0.5 < estimate_activations(config, "cpu") / counted < 2


def test_every_setting_that_saves_memory_is_estimated_to_save_some():
    def activations(**changes):
        model = dataclasses.replace(named.paper_consistent().model, **changes)
        return make_plan(consistent(model=model)).memory.activations

    kept = [activations(remat=remat) for remat in ("full", "dots", "none")]
    assert kept == sorted(kept)
    assert activations(scan_unroll=1) > activations() < activations(attention="xla")
    halves = make_plan(consistent(accumulate=2)).memory
    assert halves.activations < make_plan(consistent()).memory.activations
    assert halves.gradients == 2 * make_plan(consistent()).memory.gradients


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"mesh": MeshConfig(fsdp=7)}, "batch_size=1024 does not divide over data x fsdp = 7"),
        ({"mesh": MeshConfig(tensor=16)}, "tensor=16 does not divide kv_heads=12"),
        ({"accumulate": 256}, "accumulate=256 does not divide the 128 sequences of a device"),
    ],
)
def test_impossible_settings_are_refused_by_name(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_plan(consistent(**changes))


def test_an_impossible_utilization_is_refused():
    with pytest.raises(ValueError, match="utilization=40 is not allowed"):
        make_plan(consistent(), utilization=40)


def test_the_command_prints_a_table_and_its_status_is_the_verdict(capsys):
    from train.cli.main import main

    with pytest.raises(SystemExit) as stop:
        main(["plan", "paper_consistent", "--mesh.fsdp", "8"])
    printed = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "134,105,856" in printed
    assert "an estimate, not compiled" in printed
    with pytest.raises(SystemExit) as stop:
        main(["plan", "paper_consistent", "--mesh.fsdp", "8", "--accumulate", "1"])
    assert stop.value.code == 1
    with pytest.raises(SystemExit) as stop:
        main(["plan", "nano", "--reported-hours", "1e-9"])
    assert stop.value.code == 1
