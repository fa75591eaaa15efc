"""Laws 8, 24 and 25 of super-resolution tasks: what is seen in training is what is seen in sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion import cascade
from training.super_resolution import draw_offsets, super_resolution
from training.tasks import TASKS, normalise

SHAPE = (32, 48, 1)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def batch(n):
    image = np.random.default_rng(0).integers(0, 256, (n, *SHAPE)).astype(np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.arange(n) % 10}


def task(drop=0.1, crop=0, low_size=8):
    return super_resolution(TASKS["class"](SHAPE, 10, drop=drop, flip=False), low_size, crop)


def test_training_and_sampling_pass_the_smaller_image_through_the_same_program():
    """What prepare makes of an image, condition makes of the same image made smaller, at the same level."""
    sr, whole = task(drop=0.0), batch(6)
    x0, trained = sr.prepare(None, keys(6), whole, True)
    given = sr.given(whole)
    assert given["low_res"].shape == (6, 8, 12, 1)
    sampled = sr.condition(None, keys(6), given | {"aug_level": trained["aug_level"]})
    assert trained.keys() == sampled.keys() == {"label", "low_res", "aug_level"}
    for name in trained:
        np.testing.assert_allclose(trained[name], sampled[name], atol=1e-6)
    np.testing.assert_array_equal(x0, normalise(whole["image"]))


def test_pixels_and_numbers_are_the_same_smaller_image():
    sr, n = task(), 2
    pixels = np.random.default_rng(1).integers(0, 256, (n, 8, 12, 1)).astype(np.uint8)
    given = {"label": jnp.arange(n), "aug_level": jnp.zeros(n), "low_res": jnp.asarray(pixels)}
    by_pixels = sr.condition(None, keys(n), given)["low_res"]
    by_numbers = sr.condition(None, keys(n), given | {"low_res": normalise(given["low_res"])})["low_res"]
    np.testing.assert_array_equal(by_pixels, by_numbers)
    clean = cascade.resize(normalise(given["low_res"]), SHAPE[:2])
    np.testing.assert_array_equal(by_pixels, clean)  # level 0 is not noised


def test_levels_are_drawn_for_each_example_over_all_of_their_range():
    sr = super_resolution(TASKS["unconditional"]((4, 4, 1), 0, drop=0.0, flip=False), 2)
    n = 4000
    levels = np.asarray(sr.prepare(None, keys(n), {"image": jnp.zeros((n, 4, 4, 1), jnp.uint8)}, True)[1]["aug_level"])
    assert abs(levels.mean() - 0.5) < 0.02 and levels.min() < 0.01 and levels.max() > 0.99
    assert abs(np.var(levels) - 1 / 12) < 0.005 and len(np.unique(levels)) > n / 2


def test_the_null_keeps_the_smaller_image_and_its_level():
    sr, n = task(drop=1.0), 16
    _, trained = sr.prepare(None, keys(n), batch(n), True)
    _, kept = task(drop=0.0).prepare(None, keys(n), batch(n), True)
    null = sr.null(kept)
    assert trained.keys() == null.keys()
    for name in null:  # the null of training is the null of sampling, bit for bit
        np.testing.assert_array_equal(trained[name], null[name])
    assert np.all(null["label"] == 10)
    np.testing.assert_array_equal(null["low_res"], kept["low_res"])


def located(x0, image):
    """Where a crop lies in its image [h w 1]."""
    side = x0.shape[0]
    places = [(i, j) for i in range(SHAPE[0] - side + 1) for j in range(SHAPE[1] - side + 1)]
    return next(at for at in places if np.array_equal(image[at[0] : at[0] + side, at[1] : at[1] + side], x0))


@pytest.mark.parametrize("train", [True, False])
def test_a_crop_is_of_the_image_and_of_its_smaller_one_at_whole_pixels_of_both(train):
    n, side, factor = 12, 16, 4
    sr, whole = task(drop=0.0, crop=side), batch(n)
    x0, cond = sr.prepare(None, keys(n), whole, train)
    images = np.asarray(normalise(whole["image"]))
    resized = np.asarray(cascade.resize(cascade.resize(jnp.asarray(images), (8, 12)), SHAPE[:2]))
    places = [located(*pair) for pair in zip(np.asarray(x0), images)]
    assert all(i % factor == 0 and j % factor == 0 for i, j in places)
    assert len(set(places)) > 6 if train else set(places) == {(8, 16)}
    alpha, sigma = cascade.AUGMENTATION.level(cond["aug_level"].reshape(-1, 1, 1, 1))
    clean = np.stack([image[i : i + side, j : j + side] for image, (i, j) in zip(resized, places)])
    noise = (np.asarray(cond["low_res"]) - alpha * clean) / sigma
    assert abs(np.std(noise) - 1) < 0.05 and abs(np.mean(noise)) < 0.05
    for image, at in zip(noise, np.asarray(sigma).reshape(-1)):  # none is larger for a crop from elsewhere
        assert abs(np.std(image) - 1) < 0.25, at


def test_every_place_of_a_crop_is_drawn():
    offsets = np.asarray(draw_offsets(keys(2000), (32, 48), 16, 4, True))
    assert set(map(tuple, offsets)) == {(4 * i, 4 * j) for i in range(5) for j in range(9)}
    whole = np.asarray(draw_offsets(keys(10), (16, 16), 16, 4, True))
    assert np.all(whole == 0)


@pytest.mark.parametrize(
    "sizes, words",
    [
        (dict(low_size=9), "task.low_size=9 must divide the height 32"),
        (dict(low_size=32), "task.low_size=32 must divide.*be below it"),
        (dict(crop=6), "task.crop=6 must be a multiple of the scale factor 4, at most 32"),
        (dict(crop=36), "task.crop=36 must be a multiple of the scale factor 4, at most 32"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(sizes, words):
    with pytest.raises(ValueError, match=words) as refusal:
        task(**sizes)
    assert "\n" not in str(refusal.value)
