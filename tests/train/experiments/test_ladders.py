"""The ablation ladders: one change a rung, and rungs that are the same method train the same."""

import dataclasses
import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import optax_strat
from models import PRESETS
from tests.support import tiny
from train.config.comparison import Comparison, Contestant
from train.config.run import ScheduleConfig
from train.experiments import ladders
from train.optimizers import Aardvark, AdamW, Lion, Muon, StratOpt
from train.step.optimizer import build_optimizer

BASE = AdamW(learning_rate=2e-3, b1=0.85, b2=0.97, eps=1e-7, weight_decay=0.3, clip=0.8)
NANO = PRESETS["nano"]

# What each rung changes of the rung that it stands after.
CHANGES = {
    "aardvark": {
        "AdamW, no clip": {"clip"},
        "+ multipliers": {"attention", "mlp", "head"},
        "Aardvark (+ clip)": {"clip"},
        "Multipliers, mean 1": {"scaling"},
        "Adaptive multipliers": {"scaling"},
        "Decay at base rate": {"decay_rate"},
        "Clip per tensor": {"clip_mode"},
        "Clip by element": {"clip_mode"},
        "AdamW, 1.32 x rate": {"learning_rate"},
        "AdamW, 1.34 x rate": {"learning_rate"},
    },
    "stratopt": {
        "AdamW, no clip": {"clip"},
        "No bias correction": {"bias_correction"},
        "+ alpha (ema)": {"scale_bounds"},
        "Alpha, layer mean": {"reference"},
        "Alpha, running mean": {"reference"},
        "Alpha, global ema": {"reference"},
        "StratOpt (+ clip)": {"layer_clip"},
        "Bias correction": {"bias_correction"},
        "Unbounded alpha": {"scale_bounds"},
        "Alpha by block": {"stratum"},
        "Alpha by type": {"stratum"},
        "Gradient mixing": {"gradient_mixing"},
        "Momentum adjustment": {"momentum_adjustment"},
        "Centred variance": {"centred"},
    },
    "muon": {
        "Muon on attention": {"strata"},
        "Muon on MLPs": {"strata"},
        "Muon on both": {"strata"},
        "Muon (+ Nesterov)": {"adam_nesterov"},
    },
}
SPELLINGS = {Aardvark: ladders.as_aardvark, StratOpt: ladders.as_stratopt, Muon: ladders.as_muon}
every_ladder = pytest.mark.parametrize("name", ladders.LADDERS)


def terms(base=BASE):
    return Comparison(model=NANO, contestants=(Contestant(base),), steps=40, seeds=3)


def climbed(name, base=BASE):
    return ladders.climb(name, terms(base))


def neighbours(name):
    """Each rung with the one that it stands after, in the words of its own method."""
    rungs = {rung.name: rung for rung in climbed(name).contestants}
    for rung in list(rungs.values())[1:]:
        before, kind = rungs[rung.after].optimizer, type(rung.optimizer)
        yield rung, before if type(before) is kind else SPELLINGS[kind](before)


@every_ladder
def test_a_rung_changes_what_its_name_says_and_nothing_else(name):
    changes = {}
    for rung, before in neighbours(name):
        settings = zip(vars(before).items(), vars(rung.optimizer).items(), strict=True)
        changes[rung.title] = {ours[0] for theirs, ours in settings if theirs != ours}
    assert changes == CHANGES[name]


@pytest.mark.parametrize("name", ["aardvark", "stratopt"])
def test_an_option_of_a_method_makes_other_updates(name):
    for rung, before in neighbours(name):
        if not isinstance(rung.optimizer, AdamW):
            differences = jax.tree.map(
                lambda x, y: np.max(np.abs(x - y)), updates(rung.optimizer), updates(before)
            )
            assert max(jax.tree.leaves(differences)) > 1e-7, rung.title


@every_ladder
def test_a_ladder_starts_at_adamw_as_it_is_and_climbs_from_rungs_below(name):
    first, *others = climbed(name).contestants
    assert (first.name, first.optimizer, first.after) == ("adamw", BASE, "")
    names = ["adamw", *(rung.name for rung in others)]
    for place, rung in enumerate(others, start=1):
        assert rung.after in names[:place]


@pytest.mark.parametrize("name", ["aardvark", "stratopt"])
def test_adamw_without_a_clip_is_no_start_for_a_ladder_that_takes_the_clip_away(name):
    with pytest.raises(ValueError, match="clip=None is not allowed: the ladder takes AdamW's clip"):
        climbed(name, dataclasses.replace(BASE, clip=None))


def test_a_ladder_starts_at_no_other_optimizer():
    with pytest.raises(ValueError, match="cannot start at Lion: AdamW must be the first"):
        climbed("muon", Lion())


def test_a_ladder_is_compared_on_the_terms_that_it_is_given():
    own = terms().contestants
    assert dataclasses.replace(climbed("muon"), contestants=own) == terms()


def test_the_papers_model_has_one_control_at_its_mean_multiplier():
    paper = ladders.aardvark_ladder(BASE, PRESETS["paper_wide"])
    controls = {
        rung.title: rung.optimizer.learning_rate for rung in paper if "x rate" in rung.title
    }
    assert controls == {"AdamW, 1.34 x rate": pytest.approx(1.34 * 2e-3)}


def test_the_mean_multiplier_is_over_the_parameters_of_the_model():
    rows = optax_strat.describe(tiny.params()).rows
    mean = sum(row.share * row.multiplier for row in rows)
    assert ladders.mean_multiplier(tiny.MODEL) == pytest.approx(mean)


def test_alpha_within_one_and_one_is_no_alpha_whatever_the_reference():
    plain = ladders.as_stratopt(dataclasses.replace(BASE, clip=None))
    other = dataclasses.replace(plain, reference="layer_mean")
    chex.assert_trees_all_close(updates(plain), updates(other), rtol=1e-6)


@functools.cache
def updates(optimizer):
    """Three updates on gradients that turn and shrink, without warm-up."""
    schedule = ScheduleConfig(warmup_steps=0, decay="constant")
    tx = build_optimizer(optimizer, schedule, steps=3).transformation
    params = normal(seed=0, size=0.02)
    state, seen = tx.init(params), []
    for seed, size in enumerate((1.0, 0.3, 1e-3), start=1):
        update, state = tx.update(normal(seed, size), state, params)
        seen.append(update)
    return seen


def normal(seed, size):
    """A model in small: few shapes, so that there is little to compile."""
    rng = np.random.default_rng(seed)
    tree = {
        "embed": (4, 4),
        "layers": {"attention": (2, 4, 4), "mlp": (2, 4, 4), "norm": (2, 4)},
        "head": (4, 4),
    }
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(scale=size, size=shape), jnp.float32),
        tree,
        is_leaf=lambda node: isinstance(node, tuple),
    )
