"""Inpainting as a task: masks of each example's own, and the same condition in training and in sampling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.inpainting import inpainting, random_masks
from training.tasks import TASKS, normalise

SHAPE = (8, 12, 1)


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


@pytest.fixture(scope="module")
def batch():
    image = np.random.default_rng(0).integers(0, 256, (16, *SHAPE)).astype(np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.arange(16) % 10}


def test_masks_are_of_each_examples_own_and_hide_something_and_now_and_then_all():
    masks = np.asarray(jax.jit(lambda keys: random_masks(keys, (16, 24)))(keys(2000)))
    assert masks.shape == (2000, 16, 24, 1) and set(np.unique(masks)) == {0, 1}
    hidden = 1 - masks.mean((1, 2, 3))
    assert hidden.min() > 0 and 0.25 < np.median(hidden) < 0.6
    assert np.mean(hidden == 1) == pytest.approx(0.1, abs=0.03)
    assert len({mask.tobytes() for mask in masks}) > 1500
    assert np.all(masks.mean(0) > 0.2)  # no place is always hidden
    np.testing.assert_array_equal(random_masks(keys(2000)[7:8], (16, 24))[0], masks[7])


def test_training_and_sampling_are_told_the_same(batch):
    task = inpainting(TASKS["class"](SHAPE, 10, drop=0.0, flip=False))
    x0, trained = task.prepare(None, keys(16), batch, True)
    known, mask = trained["known"][..., :1], trained["known"][..., 1:]
    np.testing.assert_array_equal(known, normalise(batch["image"]) * mask)
    given = {"label": batch["label"], "image": batch["image"], "mask": mask}
    for image in (batch["image"], x0 + 9 * (1 - mask)):  # what is hidden does not matter
        told = task.condition(None, keys(16), given | {"image": image})
        assert told.keys() == trained.keys()
        for name in told:
            np.testing.assert_array_equal(told[name], trained[name])


def test_the_null_keeps_what_is_known(batch):
    task = inpainting(TASKS["class"](SHAPE, 10, drop=1.0, flip=True))
    _, cond = task.prepare(None, keys(16), batch, True)
    assert np.all(cond["label"] == 10)
    null = task.null(cond)
    np.testing.assert_array_equal(null["known"], cond["known"])
    assert null.keys() == cond.keys() and task.given(batch).keys() == {"label", "image", "mask"}
