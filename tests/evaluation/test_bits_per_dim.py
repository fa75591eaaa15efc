"""Bits per dimension of a model that knows its Gaussian data exactly, on every kind of schedule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from diffusion.oracles import gaussian
from diffusion.schedules import SCHEDULES
from evaluation.likelihood import bound, flow, likelihood
from training.tasks import normalise

MEAN, STD, N = 0.1, 0.3, 300
SCHEDULE = {
    "linear": lambda: SCHEDULES["linear"](300),
    "cosine": SCHEDULES["cosine"],
    "edm": SCHEDULES["edm"],
    "flow": SCHEDULES["flow"],  # ends in pure noise
}


@functools.cache
def images():
    x = np.random.default_rng(0).normal(MEAN, STD, (N, 4, 4, 1))
    return np.clip(np.round((x + 1) * 127.5), 0, 255).astype(np.uint8)


def true_bits():
    """-log2 of the mass of each value's bin, mean over an image's values [N]."""
    x, ends = images() / 127.5 - 1, norm(MEAN, STD)
    return -np.log2(ends.cdf(x + 1 / 255) - ends.cdf(x - 1 / 255)).mean(axis=(1, 2, 3))


def measured(method, name, steps):
    schedule = SCHEDULE[name]()
    bits = method(
        lambda frozen, keys, batch, train: (normalise(batch["image"]), {}),
        lambda params, frozen, cond: gaussian(schedule, MEAN, STD**2),
        lambda params: schedule,
        steps,
    )
    keys = jax.vmap(jax.random.key)(jnp.arange(N))
    return {key: np.asarray(x) for key, x in jax.jit(bits)(None, None, {"image": images()}, keys).items()}


@pytest.mark.parametrize("name", SCHEDULE)
def test_the_ode_gives_every_image_its_bits(name):
    found = measured(flow, name, 400)["ode"]
    # Dequantisation moves x by up to half a grey level, 0.04 bits at 2 deviations from the mean.
    np.testing.assert_allclose(found, true_bits(), atol=0.04)
    assert found.mean() == pytest.approx(true_bits().mean(), abs=4e-3)


@pytest.mark.parametrize("name", SCHEDULE)
def test_the_bound_of_a_perfect_model_is_its_likelihood(name):
    found = measured(bound, name, 300)
    parts = [found[f"vlb/{part}"] for part in ("prior", "diffusion", "data")]
    np.testing.assert_allclose(found["vlb"], sum(parts), rtol=1e-5)
    excess = found["vlb"] - true_bits()
    error = excess.std() / np.sqrt(N)
    # DDPM's variance and its steps cost a table of 300 levels what they cost; quantised values cost a little anywhere.
    looser = 0.05 if name == "linear" else 0.01
    assert error < 0.03 and -4 * error < excess.mean() < looser + 4 * error


def test_means_leave_invalid_images_out():
    batches = [
        {"bits": np.array([1.0, 3.0]), "valid": np.array([True, True])},
        {"bits": np.array([5.0, np.nan]), "valid": np.array([True, False])},
    ]
    ((name, result),) = likelihood(lambda batch: ({"vlb": batch["bits"]}, batch["valid"]), batches, {"split": "test"})
    assert name == "bits_per_dim/vlb" and result.value == 3.0
    assert result.settings == {"split": "test", "n": 3, "standard_error": pytest.approx(2 / np.sqrt(3))}
