"""Law 13: averages follow their closed form, count optimiser steps, and are never guessed."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from problem import make, run

from training import ema


@pytest.mark.parametrize("jump", [0, 3, 7])
@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_an_average_after_a_jump_of_the_parameters_is_geometric(decay, jump):
    average, steps = {"w": jnp.zeros(2)}, 12
    for k in range(steps):
        average = ema.update(average, {"w": jnp.full(2, float(k >= jump))}, 1 - decay)
    assert np.allclose(average["w"], 1 - decay ** (steps - jump), atol=1e-6)


@pytest.mark.parametrize("decay", [0.5, 0.9999])
def test_warm_up_is_the_product_of_its_decays(decay):
    average = {"0": jnp.ones(())}
    steps = 40
    for n in range(steps):
        average = {"0": ema.update(average["0"], 0.0, ema.exponential(decay, warmup=True)(jnp.int32(n)))}
    expected = np.prod([min(decay, (1 + n) / (10 + n)) for n in range(steps)])
    assert np.isclose(average["0"], expected, rtol=1e-5)


def test_one_update_for_each_step_whatever_the_micro_batches():
    decays = (0.5, 0.9)
    one = run(*make(decays), 0, 3)[0]
    four = run(*make(decays, accumulate=4), 0, 3)[0]
    for name in ("0.5", "0.9"):
        assert np.allclose(one.ema[name]["w"], four.ema[name]["w"], atol=1e-6)


def test_averages_stay_float32_and_named_by_their_decay():
    state, _ = run(*make((0.9999, 0.5)), 0, 1)
    assert sorted(state.ema) == ["0.5", "0.9999"]
    assert state.ema["0.5"]["w"].dtype == jnp.float32


def test_the_average_of_a_run_follows_its_parameters():
    state, step = make((0.75,))
    expected = np.asarray(state.params["w"])
    for k in range(5):
        state, _ = run(state, step, k, k + 1)
        expected = 0.75 * expected + 0.25 * np.asarray(state.params["w"])
    assert np.allclose(state.ema["0.75"]["w"], expected, atol=1e-6)


def test_a_ramp_bounds_the_half_life_by_a_share_of_the_updates():
    """EDM: half-life min(H, .05 n), so that an average of a young run is of its last twentieth."""
    half_life, share = 50, 0.05
    rule = ema.rules((0.5 ** (1 / half_life),), False, ramp=share)[ema.name(0.5 ** (1 / half_life))]
    n = np.arange(1, 3000)
    expected = 1 - 0.5 ** (1 / np.minimum(half_life, share * n))
    np.testing.assert_allclose([float(rule(jnp.int32(k))) for k in n[::50]], expected[::50], rtol=1e-4)
    assert float(rule(jnp.int32(0))) == 1.0


def test_the_first_average_is_a_power_of_time_where_there_is_no_exponential_one():
    assert ema.first_name(ConfigDict(dict(decays=(0.5, 0.9), sigma_rels=(0.1,)))) == "0.5"
    assert ema.first_name(ConfigDict(dict(decays=(), sigma_rels=(0.1, 0.2)))) == "power_0.1"
