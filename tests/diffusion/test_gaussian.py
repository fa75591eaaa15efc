import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.gaussian import NoiseLevel, corrupt, interpolate_log_variance, posterior
from diffusion.schedules import SCHEDULES


def random_pairs(n=200):
    """Levels s cleaner than t, variance preserving or not."""
    rng = np.random.default_rng(0)
    scale = np.exp(rng.normal(size=(2, n)))
    low, high = np.sort(rng.uniform(-12, 12, size=(2, n)), axis=0)
    (t, s) = (
        NoiseLevel(jnp.asarray(k * np.exp(l / 4)), jnp.asarray(k * np.exp(-l / 4)))
        for k, l in zip(scale, (low, high))  # noqa: E741
    )
    return t, s


def test_posterior_is_bayes_formula(x64):
    t, s = random_pairs()
    step, variance = t.alpha / s.alpha, t.sigma**2 - (t.alpha / s.alpha * s.sigma) ** 2
    precision = 1 / s.sigma**2 + step**2 / variance
    q = posterior(t, s)
    np.testing.assert_allclose(q.small, 1 / precision, rtol=1e-9)
    np.testing.assert_allclose(q.large, variance, rtol=1e-9)
    np.testing.assert_allclose(q.on_x0, s.alpha / s.sigma**2 / precision, rtol=1e-9)
    np.testing.assert_allclose(q.on_xt, step / variance / precision, rtol=1e-9)


def test_posterior_of_a_noisy_image_has_the_marginal_at_s(x64):
    """Averaged over x_t | x0, q(x_s | x_t, x0) is q(x_s | x0)."""
    t, s = random_pairs()
    q = posterior(t, s)
    np.testing.assert_allclose(q.on_x0 + q.on_xt * t.alpha, s.alpha, rtol=1e-9)
    np.testing.assert_allclose(q.on_xt**2 * t.sigma**2 + q.small, s.sigma**2, rtol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 1e-10, 1e-3, 1.0])
def test_posterior_is_finite_at_both_ends_in_float32(alpha):
    noise = NoiseLevel(jnp.float32(alpha), jnp.float32(1))
    for s in (NoiseLevel(jnp.float32(1), jnp.float32(0)), NoiseLevel(jnp.float32(1), jnp.float32(1e-10))):
        assert all(np.isfinite(value) for value in posterior(noise, s))
    assert posterior(noise, NoiseLevel(jnp.float32(1), jnp.float32(0))) == (1, 0, 0, 1)


def test_posterior_has_the_published_values(x64):
    level, beta = SCHEDULES["linear"]().level, np.linspace(1e-4, 0.02, 1000)
    at = lambda i: posterior(level((i + 1) / 1000), level(i / 1000))  # noqa: E731
    assert at(0).small == 0
    assert at(1).small == pytest.approx(5.4531876613021935e-05, rel=1e-10)
    assert at(999).small == pytest.approx(0.01999998352656061, rel=1e-11)
    assert [float(at(1).on_x0), float(at(1).on_xt)] == pytest.approx([0.5452914995, 0.4547084989], rel=1e-9)
    assert [float(at(999).on_x0), float(at(999).on_xt)] == pytest.approx([1.28351487e-4, 0.9899486783], rel=1e-8)
    k = np.arange(1000)
    np.testing.assert_allclose(posterior(level((k + 1) / 1000), level(k / 1000)).large, beta, rtol=1e-10)


def test_learned_variance_runs_between_the_bounds():
    small, large = jnp.log(2.0), jnp.log(8.0)
    middle = [float(jnp.exp(interpolate_log_variance(small, large, f))) for f in (0, 0.5, 1)]
    assert middle == pytest.approx([2, 4, 8])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_first_level_changes_the_image_in_float32_as_in_float64(name, x64):
    schedule = SCHEDULES[name]()
    change = {}
    for dtype in (jnp.float32, jnp.float64):
        x0, eps, t = (jnp.full((1, 2, 2, 1), value, dtype) for value in (0.5, 1.0, 1 / (schedule.steps or 1000)))
        x = corrupt(x0, eps, schedule.level(t))
        assert x.dtype == dtype
        change[dtype] = np.asarray(x - x0)
    np.testing.assert_allclose(change[jnp.float32], change[jnp.float64], rtol=0.01)
    assert np.all(change[jnp.float64] > 5e-5)
