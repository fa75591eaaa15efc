"""Laws of the generator and the discriminator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from models.gan import NOISE, Gan

NET = Gan(shape=(4, 8, 3), channels=8, multipliers=(1, 2), blocks=1, num_labels=3)
Z = jax.random.normal(jax.random.key(1), (3, NOISE))
X = jax.random.normal(jax.random.key(2), (3, 4, 8, 3))
COND = {"label": jnp.array([0, 1, 2])}


@pytest.fixture(scope="module")
def params():
    return jax.jit(NET.init)(jax.random.key(0), Z, COND)["params"]


def generate(params, z):
    return NET.apply({"params": params}, z, COND, method=NET.generate)


def criticise(params, x, cond=COND):
    return NET.apply({"params": params}, x, cond, method=NET.criticise)


def test_the_two_share_no_parameter(params):
    assert set(params) == {"generator", "discriminator"}
    moved = jax.tree.map(lambda x: x + 1, params)
    np.testing.assert_array_equal(generate({**moved, "generator": params["generator"]}, Z), generate(params, Z))
    np.testing.assert_array_equal(
        criticise({**moved, "discriminator": params["discriminator"]}, X), criticise(params, X)
    )
    assert generate(params, Z).shape == X.shape and criticise(params, X).shape == (3,)


def test_untrained_every_block_is_its_shortcut(params):
    """So that the discriminator is linear in the image, whatever its depth."""
    sums = criticise(params, 2 * X - 3 * X[::-1]), 2 * criticise(params, X) - 3 * criticise(params, X[::-1])
    np.testing.assert_allclose(*sums, atol=1e-5)
    assert np.abs(sums[0]).min() > 1e-4


def test_the_label_enters_as_a_product(params):
    """Scores are linear in the label's row, so that twice the rows are twice the scores."""
    params = jax.tree.map(lambda x: x + 0.1, params)
    rows = params["discriminator"]["label"]["embedding"]
    doubled = {"discriminator": {**params["discriminator"], "label": {"embedding": 2 * rows}}}
    np.testing.assert_allclose(criticise(doubled, X), 2 * criticise(params, X), rtol=1e-5)
    other = {"label": COND["label"][::-1]}
    assert np.all((criticise(params, X, other) != criticise(params, X)) == np.array([True, False, True]))


def test_the_start_has_images_and_scores_of_about_unit_size():
    net = Gan(shape=(8, 8, 1), channels=32, multipliers=(1, 2), blocks=2, num_labels=3)
    z, x = jax.random.normal(jax.random.key(1), (64, NOISE)), jax.random.normal(jax.random.key(2), (64, 8, 8, 1))
    cond = {"label": jnp.arange(64) % 3}
    params = jax.jit(net.init)(jax.random.key(0), z, cond)
    images = net.apply(params, z, cond, method=net.generate)
    scores = net.apply(params, x, cond, method=net.criticise)
    assert 0.3 < np.std(images) < 3 and 0.1 < np.std(scores) < 3


@pytest.mark.parametrize("shape", [(6, 6, 3), (8, 5, 3)])
def test_sides_that_the_levels_cannot_halve_are_refused(shape):
    with pytest.raises(ValueError, match="multiples of 4"):
        NET.clone(shape=shape, multipliers=(1, 1, 1))
