"""EDM's, EDM2's and DiT's networks on random weights: what theirs answered (make_golden_recipes.py), ours answers."""

import functools
import json
import pathlib

import jax
import numpy as np
import pytest
import recipe_states
import unet_states

from models.dit import positions
from models.published import dit, edm, edm2

QUICK = {"xla_backend_optimization_level": 0}  # the time is the compiler's
HEADS = recipe_states.EDM2["channels_per_head"]


@functools.cache
def golden():
    with np.load(pathlib.Path(__file__).parent / "golden" / "recipes.npz") as stored:
        return {name: stored[name] for name in stored.files}


@functools.cache
def state(name):
    return unet_states.weights({key: tuple(shape) for key, shape in json.loads(str(golden()["shapes"]))[name].items()})


@functools.cache
def imported(name):
    if name == "dit":
        side, width = recipe_states.DIT["input_size"] // 2, recipe_states.DIT["hidden_size"]
        return dit.to_dit(state(name) | {"pos_embed": positions(side, side, width)[None]}, heads=4)
    return edm2.to_unet(state(name), HEADS) if name == "edm2" else edm.to_unet(state(name))


@functools.cache
def apply(net):
    return jax.jit(lambda params, *given: net.apply({"params": params}, *given), compiler_options=QUICK)


def answer(name, **told):
    net, params = imported(name)
    x = unet_states.images(8, 4 if name == "dit" else 3)
    noise_input = unet_states.TIMES if name == "dit" else np.log(unet_states.SIGMAS) / 4
    return apply(net)(params, x, noise_input, {"label": unet_states.LABELS} | told)


@pytest.mark.parametrize("name", ["edm2", "dit"])
def test_a_network_answers_as_the_original(name):
    np.testing.assert_allclose(answer(name), golden()[name], atol=1e-4)


def test_song_unet_answers_as_the_original_and_zeros_are_no_augmentation():
    nothing = answer("song", augment=np.zeros((2, 9), np.float32))
    np.testing.assert_allclose(nothing, golden()["song"], atol=1e-4)
    np.testing.assert_allclose(answer("song", augment=recipe_states.AUGMENT), golden()["song_augmented"], atol=1e-4)
    assert np.abs(golden()["song_augmented"] - golden()["song"]).max() > 0.01
