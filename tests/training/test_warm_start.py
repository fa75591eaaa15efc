"""Starting from other weights takes what is asked for, leaves the rest, and says which is which."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest
from problem import equal, make, run

from training import posthoc
from training.checkpoint import Checkpoints
from training.warm_start import read_start, split_step, warm_start


def with_params(state, **params):
    return state.replace(params=params, ema={name: dict(params) for name in state.ema})


def start(state, *source):
    """The state, from what is read of the source."""
    return warm_start(state, read_start(state.params, *source))


@pytest.fixture
def donor(tmp_path):
    state, _ = run(*make((0.5,)), 0, 3)
    state = with_params(state, w=state.params["w"], v=jnp.arange(4.0))
    state = state.replace(ema={"0.5": {"w": state.params["w"] + 1, "v": jnp.zeros(4)}})
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(7, state)
    checkpoints.wait()
    return tmp_path, state


def fresh():
    return with_params(make((0.9,), seed=1)[0], w=jnp.ones((3, 2)), v=jnp.ones(4), new=jnp.ones(2))


def test_the_whole_of_the_raw_parameters(donor):
    path, state = donor
    started = start(fresh(), str(path), "raw", ".*")
    assert equal({k: started.params[k] for k in "wv"}, state.params) and np.all(started.params["new"] == 1)
    assert equal(started.ema["0.9"], started.params) and int(started.step) == 0


def test_an_average_by_pattern_and_step_with_the_rest_listed(donor, caplog):
    path, state = donor
    with caplog.at_level(logging.INFO, logger="absl"):
        started = start(fresh(), f"{path}:7", "0.5", "^w$")
    assert equal(started.params["w"], state.ema["0.5"]["w"]) and np.all(started.params["v"] == 1)
    assert "1 of 3 parameter arrays" in caplog.text
    assert "kept at their initial values: new, v" in caplog.text and "there but not used: v" in caplog.text


def test_an_average_made_after_training(donor):
    path, _ = donor
    average = {"w": jnp.full((3, 2), 5.0)}
    posthoc.save(path, "ema_posthoc/posthoc_0.13", 6, {"posthoc_0.13": average}, {})
    assert equal(start(fresh(), str(path), "posthoc_0.13", ".*").params["w"], average["w"])


def test_another_shape_is_left_alone(donor):
    path, _ = donor
    other = with_params(fresh(), w=jnp.ones((3, 2)), v=jnp.ones(5))
    assert np.all(start(other, str(path), "raw", ".*").params["v"] == 1)


def test_nothing_loaded_is_an_error(donor):
    path, _ = donor
    with pytest.raises(ValueError, match="no parameter matches init_pattern='nothing'"):
        read_start(fresh().params, str(path), "raw", "nothing")
    with pytest.raises(ValueError, match="init_weights='0.7' is not in .*0.5, raw"):
        read_start(fresh().params, str(path), "0.7", ".*")


def test_a_directory_may_name_a_step():
    assert split_step("runs/a:1000") == ("runs/a", 1000)
    assert split_step("gs://bucket/a") == ("gs://bucket/a", None)
    assert split_step("runs/a") == ("runs/a", None)
