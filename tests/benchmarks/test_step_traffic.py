"""What a step moves through memory and between devices, counted in the compiled program.

``optax.adamw`` is the measure. A norm costs one more read of the gradient, 4 bytes a parameter;
guard, clip, scaling and multipliers ride along in passes that are made anyway. Between devices
nothing is added: norms travel in the all-reduces that a train step makes anyway.
"""

import dataclasses

import jax
import optax
import pytest

from benchmarks import step_traffic
from benchmarks.parts import h100, hlo
from optax_strat import StratoptReadings, aardvark, decays, stratopt
from tests.support import tiny
from tests.support.donated import overflow_branches, traffic
from train.optimizers import Aardvark, AdamW, OptimizerConfig, StratOpt


@pytest.fixture(scope="module")
def adamw() -> float:
    return traffic(optax.adamw(0.1, weight_decay=0.1, mask=decays))[0]


@pytest.mark.parametrize(
    ("tx", "extra"),
    [
        (aardvark(0.1, clip=None, nonfinite=None), 0.0),
        (aardvark(0.1, clip=None), 4.0),
        (aardvark(0.1), 4.0),
        (aardvark(0.1, scaling="normalized", clip_mode="per_tensor"), 4.0),
        (stratopt(0.1), 4.0),
        (stratopt(0.1, layer_clip=None), 4.0),
        (stratopt(0.1, nonfinite="skip"), 4.0),
        (stratopt(0.1, readings=StratoptReadings(stratum="block")), 4.0),
    ],
    ids=[
        "aardvark without clip and guard",
        "aardvark without clip",
        "aardvark",
        "aardvark, normalized, clipped by tensor",
        "stratopt",
        "stratopt without clip",
        "stratopt, guarded",
        "stratopt by block",
    ],
)
def test_a_norm_is_all_that_a_step_costs_beyond_adamw(
    adamw: float, tx: optax.GradientTransformation, extra: float
) -> None:
    moved, temporary = traffic(tx)
    assert moved <= adamw + extra + 0.1
    assert temporary <= 0.01


@pytest.mark.parametrize(
    ("tx", "saved"),
    [
        (aardvark(0.1, clip=None, nonfinite=None, mu_dtype="bfloat16"), 6.0),
        (stratopt(0.1, mu_dtype="bfloat16", second_moment="bfloat16"), 8.0),
        (aardvark(0.1, mu_dtype="bfloat16", second_moment="bfloat16"), 8.0),
    ],
    ids=["aardvark, bfloat16 mu", "stratopt, bfloat16", "aardvark, bfloat16"],
)
def test_smaller_states_are_updated_in_place_and_move_less(
    adamw: float, tx: optax.GradientTransformation, saved: float
) -> None:
    """A moment in bfloat16 is read, written, and read for the direction: 6 bytes and not 12."""
    moved, temporary = traffic(tx)
    assert moved <= adamw - saved + 0.1
    assert temporary <= 0.01


def all_reduces(optimizer: OptimizerConfig) -> int:
    """Launches in the real train step, whose parameters are shared out among eight devices."""
    model = dataclasses.replace(tiny.MODEL, layers=1)
    program = h100.compile_step(optimizer, model, jax.devices())
    return hlo.traffic(program).collectives["all-reduce"] - overflow_branches(program, "all-reduce")


@pytest.fixture(scope="module")
def adamw_all_reduces() -> int:
    return all_reduces(AdamW(clip=None))


@pytest.mark.parametrize("optimizer", [StratOpt(), Aardvark()], ids=tiny.optimizer_name)
def test_a_sharded_train_step_makes_no_all_reduce_beyond_adamws(
    adamw_all_reduces: int, optimizer: OptimizerConfig
) -> None:
    assert all_reduces(optimizer) <= adamw_all_reduces


PROGRAM = """
HloModule step, is_scheduled=true, entry_computation_layout={(f32[8,4,4]{2,1,0})->bf16[4,4]{1,0}}

%a_layers_kernel (stacked: f32[8,4,4]) -> bf16[4,4] {
  %stacked = f32[8,4,4]{2,1,0} parameter(0)
  %rounded = bf16[8,4,4]{2,1,0} convert(%stacked)
  %layer = bf16[1,4,4]{2,1,0} slice(%rounded), slice={[0:1], [0:4], [0:4]}
  ROOT %kernel = bf16[4,4]{1,0} bitcast(%layer)
}

ENTRY %main (stacked: f32[8,4,4]) -> bf16[4,7] {
  %stacked = f32[8,4,4]{2,1,0} parameter(0)
  %kernel = bf16[4,4]{1,0} fusion(%stacked), kind=kLoop, calls=%a_layers_kernel
  %wide = bf16[4,7]{1,0} custom-call(%kernel), custom_call_target="__cublas$gemm"
  ROOT %copy = bf16[4,7]{1,0} copy(%wide)
}
"""


def test_a_slice_of_what_is_rounded_first_counts_as_the_slice_before_rounding() -> None:
    kernel, _, _ = hlo.launches(PROGRAM)
    assert kernel.bytes == 4 * 16 + 2 * 16


def test_what_products_move_is_told_apart_and_arrays_are_found_by_a_dimension() -> None:
    assert hlo.text_traffic(PROGRAM).in_products == 2 * 16 + 2 * 28
    assert hlo.largest_along(7, PROGRAM) == 2 * 28
    assert hlo.largest_along(8, PROGRAM) == 0


def cost_of_a_step(**changes: object) -> step_traffic.Cost:
    met = step_traffic.Cost(
        gigabytes=100.0,
        kernels=700,
        temporary=20.0,
        arguments=1.0,
        logits=1.0,
        collectives={"all-reduce": 5},
        milliseconds=(1.0, 2.0),
        utilization=(0.3, 0.4),
    )
    return dataclasses.replace(met, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"gigabytes": 100.4, "collectives": {"all-reduce": 6}}, []),
        ({"gigabytes": 100.6}, ["bytes"]),
        ({"collectives": {"all-reduce": 7}}, ["all-reduces"]),
        ({"arguments": 1.12}, ["replicated"]),
        ({"logits": 8.4}, ["logits"]),
    ],
    ids=["all met", "bytes", "all-reduces", "replicated", "logits"],
)
def test_an_optimizers_whole_step_is_judged_beside_adamws(
    changes: dict[str, object], missed: list[str]
) -> None:
    costs = {step_traffic.SHIPPED: cost_of_a_step(), "stratopt": cost_of_a_step(**changes)}
    assert step_traffic.verdict(step_traffic.Options(), "stratopt", costs) == missed


@pytest.mark.slow
def test_a_whole_step_compiled_for_an_h100_meets_its_targets() -> None:
    try:
        h100.devices()
    except ValueError as error:
        pytest.skip(str(error))
    options = step_traffic.Options(
        only=("shipped", "stratopt"), preset="nano", rows=2, context=128, devices=8
    )
    assert step_traffic.main(options) == 0
