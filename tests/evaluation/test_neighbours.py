"""Nearest neighbours, and a ratio that copying cannot win."""

import numpy as np
import pytest

from evaluation.neighbours import copying_ratio, nearest


def images(n, seed=0, shape=(4, 5, 3)):
    return np.random.default_rng(seed).integers(0, 256, (n, *shape), np.uint8)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_neighbours_equal_a_direct_search_in_chunks_of_any_size(chunk):
    queries, references = images(23), images(31, seed=1)
    distance, index = nearest(queries, references, chunk=chunk)
    differences = (queries[:, None].astype(float) - references[None]) / 127.5
    direct = np.sqrt((differences**2).sum((2, 3, 4)))
    np.testing.assert_array_equal(index, direct.argmin(1))
    np.testing.assert_allclose(distance, direct.min(1), rtol=1e-12)


@pytest.mark.parametrize("chunk", [3, 1024])
def test_left_out_an_image_is_not_its_own_neighbour(chunk):
    x = images(20)
    distance, index = nearest(x, x, leave_one_out=True, chunk=chunk)
    assert (index != np.arange(20)).all() and (distance > 0).all()
    np.testing.assert_array_equal(nearest(x, x, chunk=chunk)[1], np.arange(20))


def test_copies_are_at_exactly_zero_and_one_grey_level_is_seen():
    x = np.full((1, 64, 64, 3), 255, np.uint8)
    near = x.copy()
    near[0, 0, 0, 0] -= 1
    assert nearest(x, x)[0] == 0
    np.testing.assert_allclose(nearest(near, x)[0], 1 / 127.5, rtol=1e-12)


def test_copies_of_the_training_set_are_at_zero_and_new_images_near_the_reference():
    train, heldout, new = images(400), images(100, seed=1), images(300, seed=2)
    reference = copying_ratio(heldout, train, heldout, leave_one_out=True)
    assert copying_ratio(train[:300], train, heldout) == 0
    assert copying_ratio(new, train, heldout) == pytest.approx(reference, rel=0.02)
    half = np.concatenate([train[:150], new[:150]])
    assert copying_ratio(half, train, heldout) == pytest.approx(reference / 2, rel=0.05)


def test_images_of_unequal_shapes_are_refused():
    with pytest.raises(ValueError, match=r"got \[4, 5, 3\] and \[8, 8, 1\]"):
        nearest(images(2), images(2, shape=(8, 8, 1)))
