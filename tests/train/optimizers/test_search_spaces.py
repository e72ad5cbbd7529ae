"""Search spaces: the same size for every optimizer, sound where they are declared."""

import dataclasses
import math

import numpy as np
import pytest

from train.config.plain import to_dict
from train.experiments.tuning import sobol_points
from train.host.typed_json import from_json
from train.optimizers import OPTIMIZERS, AdamW, Lion, StratOpt
from train.optimizers.dimensions import Choices, Dimension, LogComplement, LogUniform, Uniform
from train.optimizers.search_space import PAPERS_RATE, SearchSpace, search_space

RATE = LogUniform("learning_rate", 1e-4, 1e-2)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_optimizer_tunes_its_rate_its_decay_and_how_long_it_averages(kind):
    rate, decay, averaging = search_space(kind()).dimensions
    assert (rate.field, decay.field) == ("learning_rate", "weight_decay")
    assert averaging.field in ("b2", "beta", "decay_rate")


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_every_range_of_rates_is_three_decades_and_of_decays_two_around_the_default(kind):
    rate, decay, _ = kind.search
    assert math.log10(rate.high / rate.low) == pytest.approx(3)
    assert rate.low < PAPERS_RATE < rate.high
    assert decay.high / decay.low == pytest.approx(100)
    assert decay.place(kind().weight_decay) == pytest.approx(0.5)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_the_rate_of_the_nano_comparison_lies_well_inside(kind):
    optimizer = kind.nano()
    assert 0.1 < optimizer.search[0].place(optimizer.learning_rate) < 0.9


def test_where_large_models_were_tuned_lies_inside():
    assert 0.1 < AdamW.search[0].place(8e-3) < 0.9
    assert 0.1 < Lion.search[0].place(1e-3) < Lion.search[0].place(2e-3) < 0.9


def test_the_first_trial_is_the_defaults_at_the_papers_rate():
    found = search_space(AdamW(learning_rate=1.0, b2=0.5, eps=1e-6, clip=None)).default
    assert found == AdamW(learning_rate=3e-4, eps=1e-6, clip=None)


def test_a_point_of_the_cube_is_the_same_place_in_every_space():
    point = (0.25, 0.5, 0.75)
    for kind in OPTIMIZERS:
        space = search_space(kind())
        found = space.at(point)
        places = [d.place(getattr(found, d.field)) for d in space.dimensions]
        np.testing.assert_allclose(places, point, atol=1e-3)


@pytest.mark.parametrize(
    "dimension",
    [RATE, Uniform("a", -2.0, 3.0), LogComplement("b2", 0.9, 0.9995), LogUniform("a", 2.5, 7e3)],
)
def test_places_and_values_are_inverse_and_edges_stay_edges(dimension):
    assert dimension.at(0.0) == dimension.low
    assert dimension.at(1.0) == dimension.high
    for unit in np.linspace(0, 1, 23):
        value = dimension.at(unit)
        assert dimension.holds(value)
        assert dimension.place(value) == pytest.approx(unit, abs=1e-3)


def test_choices_share_the_interval_evenly():
    choices = Choices("reference", ("a", "b", "c"))
    assert [choices.at(unit) for unit in (0.0, 0.33, 0.34, 0.66, 0.67, 1.0)] == list("aabbcc")


def test_every_dimension_survives_being_written_as_json():
    for dimension in (RATE, Uniform("a", 0.0, 1.0), Choices("reference", ("a", "b"))):
        assert from_json(to_dict(dimension), Dimension, "it") == dimension


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: LogUniform("a", 0.0, 1.0), "is an empty range: it must have 0 < low < high < inf"),
        (lambda: LogUniform("a", 2.0, 1.0), "is an empty range"),
        (lambda: Uniform("a", 1.0, 1.0), "is an empty range"),
        (lambda: LogComplement("a", 0.9, 1.0), "0 < low < high < 1"),
        (lambda: Choices("a", (1,)), "is no choice: it must have two or more"),
        (lambda: Choices("a", (1, 1)), "is no choice"),
        (lambda: SearchSpace(AdamW(), (RATE, Uniform("b3", 0.0, 1.0))), "a dimension 'b3'"),
        (lambda: SearchSpace(AdamW(), (RATE, RATE)), "a dimension 'learning_rate': each must"),
        (lambda: SearchSpace(AdamW(), (Uniform("b2", 0.9, 0.99),)), "lacks learning_rate"),
        (lambda: SearchSpace(AdamW(), (RATE, Uniform("b2", 0.5, 0.9))), "does not hold 0.98"),
        (
            lambda: SearchSpace(
                AdamW(learning_rate=2e-3), (LogUniform("learning_rate", 1e-3, 1e-2),)
            ),
            r"does not hold 0.0003, which is its default or the papers' rate: widen it",
        ),
        (
            lambda: SearchSpace(
                StratOpt(reference="ema"), (RATE, Choices("reference", ("x", "y")))
            ),
            "does not hold ema",
        ),
    ],
)
def test_a_space_that_cannot_work_is_refused_when_it_is_written(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_the_points_fill_every_axis_evenly_and_a_shorter_sequence_is_the_beginning():
    points = sobol_points(8, 3, 1)
    for axis in zip(*points, strict=True):
        assert sorted(int(8 * unit) for unit in axis) == list(range(8))
    assert sobol_points(5, 3, 1) == points[:5]
    assert sobol_points(5, 3, 2) != points[:5]
    assert sobol_points(0, 3, 1) == ()


def test_a_space_keeps_what_is_not_tuned():
    space = SearchSpace(AdamW(eps=1e-6), (RATE,))
    assert dataclasses.replace(space.at((0.3,)), learning_rate=3e-4) == space.default
