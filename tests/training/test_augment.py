"""Non-leaking augmentation: what EDM's code makes of the same draws, and what the network is told of it."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training import augment
from training.tasks import class_conditional, unconditional

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden" / "recipes.npz"  # tests/models/make_golden_recipes.py
changed = jax.jit(augment.changed)


@functools.cache
def theirs():
    with np.load(GOLDEN) as stored:
        return {name.removeprefix("augment_"): stored[name] for name in stored.files if name.startswith("augment_")}


def test_the_same_draws_make_the_images_and_labels_of_edms_code():
    change = augment.Change(*(theirs()[name] for name in augment.Change._fields))
    np.testing.assert_allclose(changed(theirs()["images"], change), theirs()["changed"], atol=1e-5)
    np.testing.assert_allclose(jax.vmap(augment.labels)(change), theirs()["told"], atol=1e-6)


def none(count, **changes):
    fields = {name: jnp.zeros((count, 2) if name == "shift" else count) for name in augment.Change._fields}
    return augment.Change(**fields | changes)


def test_no_change_leaves_the_image_and_is_told_as_zeros():
    x = theirs()["images"]
    np.testing.assert_allclose(changed(x, none(6)), x, atol=1e-5)
    np.testing.assert_array_equal(jax.vmap(augment.labels)(none(6)), 0)


def test_flips_and_whole_shifts_are_exact():
    x = theirs()["images"]
    flips = none(6, mirror=jnp.ones(6), flip=jnp.ones(6))
    np.testing.assert_allclose(changed(x, flips), x[:, ::-1, ::-1], atol=1e-5)
    step = 1 / (augment.SHIFT * 8)  # one pixel
    moved = changed(x, none(6, shift=jnp.tile(jnp.array([step, 0]), (6, 1))))
    np.testing.assert_allclose(moved[:, :, 1:], x[:, :, :-1], atol=1e-4)


def keys(count):
    return jax.vmap(jax.random.key)(jnp.arange(count))


def test_changes_happen_as_often_as_asked_and_are_told_in_training_alone():
    draws = jax.jit(jax.vmap(lambda key: augment.drawn(key, 0.12)))(keys(10_000))
    for name in ("scale", "turn", "stretch"):
        share = np.mean(np.asarray(getattr(draws, name)) != 0)
        assert abs(share - 0.12) < 5 * (0.12 * 0.88 / 10_000) ** 0.5
    assert abs(np.mean(draws.mirror) - 0.5) < 0.025 and abs(np.mean(draws.flip) - 0.06) < 0.012

    task = augment.augmented(class_conditional((8, 8, 3), 3, 0.1, False), 1.0)
    batch = {"image": np.uint8(127.5 * (theirs()["images"] + 1)), "label": np.arange(6) % 3}
    prepare = jax.jit(task.prepare, static_argnums=3)
    x, told = prepare(None, keys(6), batch, True)
    assert np.all(np.abs(told["augment"]).sum(1) > 0) and told["augment"].shape == (6, augment.LABELS)
    one, alone = prepare(None, keys(6)[2:3], jax.tree.map(lambda a: a[2:3], batch), True)
    np.testing.assert_allclose(one[0], x[2], atol=1e-5)
    np.testing.assert_allclose(alone["augment"][0], told["augment"][2], atol=1e-6)
    plain, nothing = prepare(None, keys(6), batch, False)
    np.testing.assert_allclose(plain, np.float32(batch["image"]) / 127.5 - 1, atol=1e-6)
    np.testing.assert_array_equal(nothing["augment"], 0)
    np.testing.assert_array_equal(task.condition(None, keys(6), task.given(batch))["augment"], 0)
    np.testing.assert_array_equal(task.null(told)["augment"], told["augment"])
    assert set(np.asarray(task.null(told)["label"])) == {3}


def test_an_unconditional_sample_needs_no_more_than_its_key():
    task = augment.augmented(unconditional((8, 8, 3), 0, 0.0, False), 0.1)
    assert task.condition(None, keys(4), {})["augment"].shape == (4, augment.LABELS)


@pytest.mark.parametrize("probability", [-0.1, 1.5])
def test_what_is_no_probability_is_refused(probability):
    with pytest.raises(ValueError, match=f"task.augment={probability} is a probability"):
        augment.augmented(unconditional((8, 8, 3), 0, 0.0, False), probability)
