"""Law 26: the Frechet distance against closed forms, and moments that stream and merge."""

import functools

import numpy as np
import pytest
import scipy.linalg

from evaluation.frechet import Moments, frechet_distance


def features(n, d, seed=0, scale=1.0):
    """Correlated, off-centre features with a spectrum over three decades."""
    rng = np.random.default_rng(seed)
    mixing = np.linalg.qr(rng.normal(size=(d, d)))[0] * np.logspace(0, -1.5, d)
    return scale * (rng.normal(size=(n, d)) @ mixing.T + rng.normal(size=d))


def exact(mean, covariance, count=10_001):
    """Moments that hold this mean and covariance to the last digit."""
    return Moments(count, np.asarray(mean, float), np.asarray(covariance, float) * (count - 1))


@pytest.mark.parametrize("n, d", [(500, 3), (500, 64), (200, 64), (1000, 128)])
def test_a_set_is_at_distance_zero_from_itself(n, d):
    moments = Moments.of(features(n, d))
    assert frechet_distance(moments, moments) <= 1e-6 * np.trace(moments.covariance)


@pytest.mark.filterwarnings("ignore:Frechet distance over")
@pytest.mark.parametrize("n", [20, 2])
def test_a_singular_set_is_at_distance_zero_from_itself(n):
    moments = Moments.of(features(n, 64))
    assert frechet_distance(moments, moments) <= 1e-12 * np.trace(moments.covariance)


def test_constant_features_add_nothing():
    a, b = features(300, 8), features(300, 8, seed=1)
    padded = [np.pad(x, ((0, 0), (0, 5)), constant_values=-1.0) for x in (a, b)]
    plain = frechet_distance(Moments.of(a), Moments.of(b))
    assert frechet_distance(*map(Moments.of, padded)) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("shift", [1e-3, 1.0, 1e3])
def test_a_shift_by_d_gives_d_squared(shift):
    a = features(400, 16)
    direction = np.ones(16) / 4
    distance = frechet_distance(Moments.of(a), Moments.of(a + shift * direction))
    assert distance == pytest.approx(shift**2, rel=1e-6)


def test_commuting_gaussians_give_the_difference_of_their_deviations():
    s, t = np.array([1.0, 2.0, 0.0, 3.0]), np.array([0.5, 2.0, 1.0, 0.0])
    basis = np.linalg.qr(features(4, 4))[0]
    a = exact([0, 0, 0, 0], basis * s**2 @ basis.T)
    b = exact([1, 2, 0, 0], basis * t**2 @ basis.T)
    assert frechet_distance(a, b) == pytest.approx(5 + np.sum((s - t) ** 2), rel=1e-7)


def test_gaussians_that_do_not_commute_give_the_closed_form():
    a, b = Moments.of(features(300, 12)), Moments.of(features(300, 12, seed=5, scale=2.0))
    root = scipy.linalg.sqrtm(a.covariance @ b.covariance).real
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("sizes", [(1, 999), (500, 500), (7, 300, 1, 692), (1,) * 10 + (990,)])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_merged_moments_equal_the_one_pass_result(sizes, offset):
    x = features(1000, 6) + offset
    parts = np.split(x, np.cumsum(sizes)[:-1])
    merged = functools.reduce(Moments.merge, map(Moments.of, parts))
    backwards = functools.reduce(Moments.merge, map(Moments.of, reversed(parts)))
    for moments in merged, backwards:
        assert moments.count == 1000
        np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance, np.cov(x.T), rtol=1e-8, atol=1e-11)


def test_the_order_of_the_examples_does_not_matter():
    x, y = features(500, 8), features(500, 8, seed=1)
    shuffled = np.random.default_rng(0).permutation(x)
    distance = frechet_distance(Moments.of(x), Moments.of(y))
    assert frechet_distance(Moments.of(shuffled), Moments.of(y)) == pytest.approx(distance, 1e-10)


def test_float32_features_are_accumulated_in_float64():
    x = (features(1000, 4) + 3e3).astype(np.float32)
    np.testing.assert_allclose(Moments.of(x).covariance, np.cov(x.astype(float).T), rtol=1e-9)


@pytest.mark.parametrize("n, flagged", [(63, True), (64, True), (65, False)])
def test_fewer_examples_than_features_are_flagged(n, flagged, recwarn):
    moments = Moments.of(features(n, 64))
    frechet_distance(moments, moments)
    assert moments.rank_deficient == flagged
    assert any("64 features" in str(warning.message) for warning in recwarn) == flagged


@pytest.mark.parametrize("bad", [np.zeros((0, 3)), np.zeros(3), np.array([[1.0, np.nan]])])
def test_features_that_have_no_moments_are_refused_in_one_line(bad):
    with pytest.raises(ValueError, match=r"^features must be finite .*$"):
        Moments.of(bad)


def test_unequal_features_and_single_examples_are_refused():
    with pytest.raises(ValueError, match="got 3 and 4 dimensions"):
        frechet_distance(Moments.of(features(9, 3)), Moments.of(features(9, 4)))
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        _ = Moments.of(features(1, 3)).covariance
