"""KID, the Inception score, precision and recall: other codes' numbers on the same arrays, and their laws."""

import functools
import json
import pathlib

import feature_sets
import numpy as np
import pytest
import scipy.spatial

from evaluation.frechet import Moments, frechet_distance
from evaluation.inception_score import ClassSums, inception_score, split_of
from evaluation.kernel_distance import kernel_distance, kernel_distance_of_subsets
from evaluation.manifold import manifold, membership

THEIRS = json.loads((pathlib.Path(__file__).parent / "golden" / "scores.json").read_text())
X, Y = feature_sets.pair()
LOGITS = feature_sets.logits()


def score(logits, splits=10, seed=2020):
    return inception_score(ClassSums.of(logits, split_of(len(logits), splits, seed), splits))


def test_the_frechet_distance_is_torch_fidelitys_and_clean_fids():
    found = frechet_distance(Moments.of(X), Moments.of(Y))
    assert found == pytest.approx(THEIRS["frechet_inception_distance"], rel=1e-10)
    assert found == pytest.approx(THEIRS["clean_fid"], rel=1e-10)


def test_the_kernel_distance_of_subsets_is_torch_fidelitys():
    theirs = [THEIRS[f"kernel_inception_distance_{part}"] for part in ("mean", "std")]
    assert kernel_distance_of_subsets(X, Y, **feature_sets.KID) == pytest.approx(theirs, rel=1e-9)


def test_the_kernel_distance_over_all_pairs_is_clean_fids_of_one_whole_subset():
    assert kernel_distance(X[:500], Y) == pytest.approx(THEIRS["clean_kid_of_500"], rel=1e-9)


def test_the_inception_score_is_torch_fidelitys():
    theirs = [THEIRS[f"inception_score_{part}"] for part in ("mean", "std")]
    assert score(LOGITS) == pytest.approx(theirs, rel=1e-12)


def test_precision_and_recall_are_torch_fidelitys():
    assert membership(X, manifold(Y)).share == pytest.approx(THEIRS["precision"], rel=1e-6)
    assert membership(Y, manifold(X)).share == pytest.approx(THEIRS["recall"], rel=1e-6)


@pytest.mark.parametrize("chunk", [1, 64, 499, 5000])
def test_pairs_in_chunks_of_any_size_give_the_same(chunk):
    x, y = X[:150], Y[:130]
    assert kernel_distance(x, y, chunk) == pytest.approx(kernel_distance(x, y), rel=1e-9)
    balls, whole = manifold(y, chunk=chunk), manifold(y)
    np.testing.assert_allclose(balls.squared, whole.squared, rtol=1e-9)
    assert membership(x, balls, chunk) == pytest.approx(membership(x, whole), rel=1e-9)


def test_the_kernel_distance_has_no_bias_at_any_count():
    rng = np.random.default_rng(0)
    for n, m in (5, 5), (20, 7):
        found = [kernel_distance(rng.normal(size=(n, 4)), rng.normal(size=(m, 4))) for _ in range(3000)]
        assert abs(np.mean(found)) < 4 * np.std(found) / len(found) ** 0.5
        assert np.min(found) < 0


def test_the_kernel_distance_is_the_difference_of_moments_up_to_the_third():
    """k sums the inner products of the sets' tensors of powers, weighed 1, 3/d, 3/d^2, 1/d^3; here over d = 1."""
    x, y = np.random.default_rng(1).normal(size=(2, 4000, 1)) * 0.5
    y = y + 0.3
    gaps = [np.mean(x**p) - np.mean(y**p) for p in (1, 2, 3)]
    expected = sum(weight * gap**2 for weight, gap in zip((3, 3, 1), gaps, strict=True))
    assert kernel_distance(x, y) == pytest.approx(expected, rel=0.02)


def test_the_inception_score_is_one_without_information_and_the_number_of_classes_with_all():
    assert score(np.tile(LOGITS[:1], (500, 1))) == pytest.approx((1, 0), abs=1e-12)
    certain = 200.0 * np.eye(25)[np.arange(2500) % 25]
    assert score(certain, splits=1) == pytest.approx((25, 0), rel=1e-12)


def test_the_inception_score_of_two_sure_classes_is_their_entropys_exponential():
    share = 0.3
    certain = 900.0 * np.eye(3)[(np.arange(1000) < share * 1000).astype(int)]
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert score(certain, splits=1)[0] == pytest.approx(np.exp(entropy), rel=1e-12)


@pytest.mark.parametrize("n, splits", [(10, 10), (730, 10), (1000, 7), (50_000, 10)])
def test_splits_are_equal_to_one_and_a_function_of_the_seed(n, splits):
    split = split_of(n, splits, 2020)
    sizes = np.bincount(split, minlength=splits)
    assert sizes.sum() == n and np.ptp(sizes) <= 1
    np.testing.assert_array_equal(split, split_of(n, splits, 2020))
    assert n == splits or (split != split_of(n, splits, 2021)).any()


@pytest.mark.parametrize("cuts", [(1, 729), (100, 300), (365,)])
def test_merged_class_sums_are_the_one_pass_sums(cuts):
    split = split_of(len(LOGITS), 10, 2020)
    parts = [ClassSums.of(*part, 10) for part in zip(np.split(LOGITS, cuts), np.split(split, cuts))]
    for order in parts, parts[::-1]:
        assert inception_score(functools.reduce(ClassSums.merge, order)) == pytest.approx(score(LOGITS), rel=1e-12)


def test_a_set_lies_in_its_own_manifold_and_one_far_away_does_not():
    balls = manifold(X)
    assert membership(X, balls).share == 1
    assert membership(X + 100, balls).share == 0
    assert membership(X, manifold(X[:350])).share >= 0.5


def test_balls_reach_the_kth_neighbour_other_than_themselves():
    distances = np.sort(scipy.spatial.distance.cdist(Y, Y), axis=1)
    np.testing.assert_allclose(np.sqrt(manifold(Y, k=4).squared), distances[:, 1:5], rtol=1e-9)
    assert manifold(Y).spacing == pytest.approx(distances[:, 1].mean())
    nearest = scipy.spatial.distance.cdist(X, Y).min(1)
    assert membership(X, manifold(Y)).distance == pytest.approx(nearest.mean())


def test_lost_variety_costs_recall_and_noise_costs_precision():
    rng = np.random.default_rng(0)
    real, same = rng.normal(size=(2, 600, 8))
    collapsed, noisy = same * 0.2, same * 3
    balls = manifold(real)
    precision, recall = membership(same, balls).share, membership(real, manifold(same)).share
    assert precision == pytest.approx(recall, abs=0.05)  # of one distribution neither has the better of it
    assert membership(collapsed, balls).share > precision and membership(real, manifold(collapsed)).share < recall / 5
    assert membership(noisy, balls).share < precision / 5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: kernel_distance(X, Y[:, :3]), "equal features, got 48 and 3 dimensions"),
        (lambda: kernel_distance(X[:1], Y), "over 2 examples got 1 and 500: draw more"),
        (lambda: kernel_distance_of_subsets(X, Y), "over 1000 examples got 700 and 500: draw more, or ask less"),
        (lambda: split_of(9, 10, 0), "in 10 splits needs as many images, got 9"),
        (lambda: manifold(X[:3]), "3th neighbour need more than 3 examples, got 3"),
        (lambda: membership(X[:, :3], manifold(Y)), "manifold of 48 dimensions got points of 3"),
    ],
)
def test_sets_that_are_too_small_or_do_not_fit_are_refused_in_one_line(call, message):
    with pytest.raises(ValueError, match=f"^.*{message}.*$"):
        call()
