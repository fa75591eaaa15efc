"""The seam of families: what the loop does not know, what averages and optimisers are of, what is refused."""

import pathlib
import re
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import digits, digits_vae
from experiment import build
from families import FAMILIES, NAMED
from modes.evaluators import check_evaluators
from modes.weights import asked_settings, facts_of
from plans import settings_of
from training import ema, optim
from training.state import new_state
from training.step import Objective, Update, apply_update

ROOT = pathlib.Path(__file__).parents[2]


def test_the_loop_and_the_step_name_no_family():
    for file in ("training/loop.py", "training/step.py", "training/checkpoint.py", "modes/train.py"):
        text = (ROOT / file).read_text().lower()
        assert not [name for name in FAMILIES if re.search(rf"\b{name}\b", text)], file
    assert NAMED.keys() == FAMILIES.keys()


def two_parts(key):
    return {"a": {"w": jnp.array([3.0, 4.0])}, "b": {"w": jnp.array([1.0, 1.0, 1.0])}}


def test_each_part_is_clipped_for_itself_and_averages_are_of_the_named_parts():
    optimiser = optim.each(
        {name: optim.with_clipping(optax.sgd(rate), 1.0) for name, rate in {"a": 1.0, "b": 0.1}.items()}
    )
    averages = ema.rules((0.5,), False)
    state = new_state(two_parts, optimiser, tuple(averages), 0, averaged=("a",))
    gradient = {"a": {"w": jnp.array([30.0, 40.0])}, "b": {"w": jnp.array([0.0, 0.0, 0.5])}}
    after, sums = apply_update(state, gradient, Update(optimiser, averages, ("a",)))
    np.testing.assert_allclose(after.params["a"]["w"], [3 - 0.6, 4 - 0.8], rtol=1e-6)
    np.testing.assert_allclose(after.params["b"]["w"], [1, 1, 0.95], rtol=1e-6)
    assert after.ema["0.5"].keys() == {"a"}
    np.testing.assert_allclose(after.ema["0.5"]["a"]["w"], [3 - 0.3, 4 - 0.4], rtol=1e-6)
    assert float(sums["gradient_norm"][0]) == pytest.approx(50, abs=0.01)


def test_a_non_finite_gradient_of_one_part_moves_neither():
    optimiser = optim.each({name: optim.with_clipping(optax.adam(0.1), 1.0) for name in ("a", "b")})
    state = new_state(two_parts, optimiser, (), 0)
    gradient = {"a": {"w": jnp.array([1.0, 1.0])}, "b": {"w": jnp.array([0.0, jnp.nan, 0.5])}}
    after, _ = apply_update(state, gradient, Update(optimiser, {}))
    same = jax.tree.map(np.array_equal, (after.params, after.opt_state), (state.params, state.opt_state))
    assert all(jax.tree.leaves(same)) and int(after.extra["skipped"]) == 1


REFUSED = {
    "family='vea' is unknown; choose from": {"family": "vea"},
    "diffusion.prediction=v is of family=diffusion, and this config's is vae": {"diffusion.prediction": "v"},
    "sampling.steps=10 is of family=diffusion": {"sampling.steps": 10},
    "task.low_size=4 is of family=diffusion": {"task.low_size": 4},
    "model.name='unet' is unknown; choose from vae": {"model.name": "unet"},
    r"model.attention=\(4,\) is not taken by model.name=vae": {"model.attention": (4,)},
    "vae.likelihood='normal' is unknown; choose from gaussian, logistic": {"vae.likelihood": "normal"},
    "vae.beta=-1.0 must be 0 or more": {"vae.beta": -1.0},
    "vae.*latent is 0: give at least 1": {"vae.latent": 0},
    "size is 8, which 5 multipliers halve 4 times": {"model.multipliers": (1, 1, 1, 1, 1)},
    "vae: dtype is 'half': choose from": {"model.dtype": "half"},
    "vae: convention is 'dppm': choose from": {"model.convention": "dppm"},
    "groups is 5, which does not divide": {"model.groups": 5},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_a_family_cannot_be_is_one_line(message):
    config = digits_vae.get_config("tiny")
    config.update_from_flattened_dict(REFUSED[message])
    with pytest.raises(ValueError, match=message) as refused:
        build(config)
    assert "\n" not in str(refused.value)


def test_flags_evaluators_and_settings_of_another_family_are_refused_or_left_out():
    config = digits_vae.get_config("tiny")
    flags = {key: types.SimpleNamespace(value=None) for key in ("sampler", "steps", "guidance")}
    assert asked_settings(config, flags) == settings_of(config)
    flags["steps"].value = 5
    with pytest.raises(ValueError, match="--steps: this model is of family=vae"):
        asked_settings(config, flags)
    config.evaluation.evaluators = ("likelihood_ode",)
    with pytest.raises(ValueError, match="likelihood_ode is of family=diffusion, and this config's is vae"):
        check_evaluators(config)
    facts = facts_of(config, settings_of(config))
    assert facts["family"] == "vae" and facts["likelihood"] == "logistic" and "steps" not in facts
    assert facts_of(digits.get_config(), settings_of(digits.get_config()))["steps"] == 50


def test_an_objective_without_vectors_has_no_labels():
    assert Objective(None).labels == {}
