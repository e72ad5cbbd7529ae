"""The time to the first step: phases of a real start, cold and warm, and how they are judged."""

import json

import jax
import pytest

from benchmarks import compile_time
from benchmarks.compile_time import Options, Start
from benchmarks.parts.starting import Phases
from tests.support import tiny
from train.config.run import MeshConfig, ScheduleConfig
from train.optimizers import Aardvark
from train.step import state
from train.step.optimizer import build_optimizer
from train.step.sharding import make_mesh


def phases(seconds):
    return Phases(seconds, seconds, seconds, seconds, seconds)


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (Start(12, "stacked", phases(1), phases(0.4)), {"program": "met", "warm": "met"}),
        (Start(12, "stacked", phases(2), phases(0.4)), {"program": "missed", "warm": "met"}),
        (Start(12, "stacked", phases(1), phases(0.6)), {"program": "met", "warm": "missed"}),
        (Start(4, "stacked", phases(2), phases(0.4)), {"warm": "met"}),
        (Start(12, "rolled", phases(9), phases(9)), {}),
    ],
)
def test_our_layers_are_judged_beside_dicts_where_the_model_is_deep(start, expected):
    assert start.verdicts(dicts=phases(1.5)) == expected


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["stacked", "rolled", "dicts"])
def test_it_starts_cold_and_warm_and_leaves_a_record(variant, tmp_path):
    output = tmp_path / "compile.jsonl"
    assert compile_time.main(Options(layers=(1,), variants=(variant,), output=output)) in (0, 1)
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["layers"], row["variant"]) == (1, variant)
    for start in (row["cold"], row["warm"]):
        assert all(seconds > 0 for seconds in start.values())


def test_another_seed_compiles_no_other_initial_state():
    tx = build_optimizer(Aardvark(), ScheduleConfig(), steps=20).transformation
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    first, second = (state.init_state(tiny.TASK, tx, mesh, seed) for seed in (0, 1))
    assert state._initializer(tiny.TASK, tx, mesh)._cache_size() == 1
    kernels = (s.params["head"]["kernel"] for s in (first, second))
    assert not bool((next(kernels) == next(kernels)).any())
