"""Laws 8 and 20 of tasks: what a network is told, and what it is told when it is told nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from training.tasks import TASKS, drop_condition, normalise


def keys(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def batch(n):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (n, 4, 6, 1)).astype(np.uint8)
    return {"image": jnp.asarray(image), "label": jnp.arange(n) % 10}


def class_task(drop=0.1, flip=False):
    return TASKS["class"]((4, 6, 1), 10, drop=drop, flip=flip)


def test_the_rate_of_dropped_conditions_is_the_rate_asked_for():
    n, rate = 10_000, 0.1
    _, cond = class_task(rate).prepare(None, keys(n), batch(n), True)
    dropped = np.mean(np.asarray(cond["label"]) == 10)
    assert abs(dropped - rate) < 4 * np.sqrt(rate * (1 - rate) / n)


def test_dropping_everything_leaves_nothing_of_the_condition():
    task = class_task(1.0)
    a, b = batch(16), batch(16)
    b["label"] = (b["label"] + 1) % 10
    assert np.array_equal(
        task.prepare(None, keys(16), a, True)[1]["label"], task.prepare(None, keys(16), b, True)[1]["label"]
    )


def test_the_null_of_training_is_the_null_of_sampling():
    task, cond = class_task(1.0), {"label": jnp.arange(16) % 10}
    trained = task.prepare(None, keys(16), batch(16), True)[1]
    sampled = task.null(cond)
    assert all(np.array_equal(trained[k], sampled[k]) and trained[k].dtype == sampled[k].dtype for k in sampled)


def test_all_parts_of_a_condition_are_dropped_together():
    n = 500
    cond = {"text": jnp.ones((n, 3, 2)), "text_mask": jnp.ones((n, 3), bool)}
    null = jax.tree.map(jnp.zeros_like, cond)
    dropped = drop_condition(keys(n), cond, null, 0.5)
    gone = np.asarray(dropped["text"]).reshape(n, -1).sum(axis=1) == 0
    assert np.array_equal(gone, ~np.asarray(dropped["text_mask"]).any(axis=1)) and 0.4 < gone.mean() < 0.6


def test_evaluation_neither_drops_nor_flips():
    task = class_task(1.0, flip=True)
    x0, cond = task.prepare(None, keys(16), batch(16), False)
    assert np.array_equal(cond["label"], batch(16)["label"])
    assert np.array_equal(x0, normalise(batch(16)["image"]))


def test_training_flips_half_of_the_images_left_to_right():
    n = 2000
    task = TASKS["unconditional"]((4, 6, 1), 0, drop=0.0, flip=True)
    x0, cond = task.prepare(None, keys(n), batch(n), True)
    plain = np.asarray(normalise(batch(n)["image"]))
    flipped = (np.asarray(x0) == plain[:, :, ::-1]).all(axis=(1, 2, 3))
    kept = (np.asarray(x0) == plain).all(axis=(1, 2, 3))
    assert np.all(flipped ^ kept) and abs(flipped.mean() - 0.5) < 0.05 and cond == {}


def test_pixels_are_normalised_to_both_ends():
    assert np.array_equal(normalise(jnp.array([0, 255], jnp.uint8)), [-1.0, 1.0])


def test_impossible_tasks_are_refused():
    with pytest.raises(ValueError, match="data.classes"):
        TASKS["class"]((4, 4, 1), 0, drop=0.0, flip=False)
    with pytest.raises(ValueError, match="task.drop=0.1"):
        TASKS["unconditional"]((4, 4, 1), 0, drop=0.1, flip=False)


def text_task(drop):
    return TASKS["text"]((4, 6, 1), 0, drop=drop, flip=False, encode=lambda frozen, text: text)


def captioned(n, seed=0):
    rng = np.random.default_rng(seed)
    mask = np.arange(5) < rng.integers(1, 6, n)[:, None]
    text = rng.normal(size=(n, 5, 3)).astype(np.float32) * mask[:, :, None]
    return batch(n) | {"text": jnp.asarray(text), "text_mask": jnp.asarray(mask)}


def test_no_text_is_the_same_in_training_and_in_sampling_and_tells_no_length():
    task = text_task(1.0)
    trained = task.prepare(None, keys(16), captioned(16), True)[1]
    sampled = task.null(text_task(0.0).prepare(None, keys(16), captioned(16), False)[1])
    assert trained.keys() == sampled.keys() == {"text", "text_mask"}
    for name, rows in sampled.items():
        np.testing.assert_array_equal(rows, trained[name])
        assert rows.dtype == trained[name].dtype and not np.any(rows)


def test_a_text_and_its_mask_are_dropped_together_at_the_rate_asked_for():
    n, rate = 4000, 0.1
    _, cond = text_task(rate).prepare(None, keys(n), captioned(n), True)
    gone = ~np.asarray(cond["text_mask"]).any(axis=1)
    np.testing.assert_array_equal(gone, np.abs(cond["text"]).sum(axis=(1, 2)) == 0)
    assert abs(gone.mean() - rate) < 4 * np.sqrt(rate * (1 - rate) / n)


def test_what_a_sample_is_given_is_what_an_example_would_be():
    task, examples = text_task(0.1), captioned(4)
    given = task.given(examples)
    assert given.keys() == {"text", "text_mask"}
    told = task.condition(None, keys(4), given | {"aug_level": jnp.zeros(4)})
    trained = task.prepare(None, keys(4), examples, False)[1]
    assert told.keys() == trained.keys()
    assert all(np.array_equal(told[name], trained[name]) for name in told)
