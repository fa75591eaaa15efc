"""Law 24: one resize, held to Pillow's; noise of the stated size at the stated level."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffusion import cascade


def by_pillow(x, size):
    """Pillow's antialiased bicubic, of floating-point pixels, channel by channel."""
    planes = [
        Image.fromarray(plane.astype(np.float32)).resize(size[::-1], Image.Resampling.BICUBIC)
        for plane in np.moveaxis(x, -1, 0)
    ]
    return np.clip(np.stack([np.asarray(plane) for plane in planes], axis=-1), -1, 1)


@pytest.mark.parametrize("before, after", [((24, 24), (6, 6)), ((6, 9), (24, 36)), ((28, 28), (14, 14))])
def test_the_resize_is_the_input_pipelines_kernel_up_and_down(before, after):
    x = np.random.default_rng(0).uniform(-1, 1, (2, *before, 3)).astype(np.float32)
    resized = cascade.resize(jnp.asarray(x), after)
    for image, found in zip(x, resized):
        np.testing.assert_allclose(found, by_pillow(image, after), atol=1e-4)


def test_the_resize_keeps_the_place_of_pixels():
    """A ramp stays the ramp: an offset of half a pixel, or a corner that is aligned, would shift or stretch it."""

    def ramp(n):
        return np.broadcast_to(((np.arange(n) + 0.5) / n - 0.5)[None, :, None, None], (1, n, n, 1)).astype(np.float32)

    for before, after in ((32, 8), (8, 32)):
        found = cascade.resize(jnp.asarray(ramp(before)), (after, after))
        middle = slice(after // 4, -after // 4)
        np.testing.assert_allclose(found[:, middle], ramp(after)[:, middle], atol=1e-5)


def keys(n):
    return jax.random.split(jax.random.key(0), n)


def test_the_noise_has_the_size_of_each_examples_own_level():
    levels = jnp.array([0.1, 0.3, 0.6, 1.0], jnp.float32)
    x = jnp.asarray(np.random.default_rng(1).uniform(-1, 1, (4, 64, 64, 3)).astype(np.float32))
    noised = cascade.augment(keys(4), x, levels)
    for example, clean, a in zip(noised, x, levels):
        alpha, sigma = np.cos(np.pi / 2 * a), np.sin(np.pi / 2 * a)  # the cosine, in closed form
        assert abs(np.std(example - alpha * clean) - sigma) < 0.02 * sigma + 1e-3
    alphas, sigmas = cascade.AUGMENTATION.level(jnp.linspace(0, 1, 11))
    np.testing.assert_allclose(alphas**2 + sigmas**2, 1, atol=1e-6)
    assert np.all(np.diff(sigmas) > 0) and np.all(np.diff(alphas) < 0)


def test_level_zero_bypasses_the_noise():
    x = jnp.asarray(np.random.default_rng(2).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32))
    np.testing.assert_array_equal(cascade.augment(keys(3), x, jnp.zeros(3)), x)


def test_noise_is_each_examples_own_whatever_its_mates():
    x, levels = jnp.zeros((4, 8, 8, 1)), jnp.full(4, 0.5)
    whole, last = cascade.augment(keys(4), x, levels), cascade.augment(keys(4)[3:], x[3:], levels[3:])
    np.testing.assert_array_equal(whole[3], last[0])
    assert np.abs(whole[2] - whole[3]).max() > 0.1
