import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import predict

from diffusion.gaussian import corrupt
from diffusion.likelihood import discretised_log_likelihood, log_variance_bounds, normal_kl, variational_term
from diffusion.schedules import cosine_discrete, linear


@pytest.mark.parametrize(
    "x, mean, log_std, expected",
    [(0, 0, -5, -0.8224819498), (-1, -1, -5, -0.3289625883), (1, 0.98, -5, -4.7858404595)],
)
def test_decoder_has_the_published_values(x, mean, log_std, expected, x64):
    actual = discretised_log_likelihood(*map(jnp.float64, (x, mean, log_std)))
    assert float(actual) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("mean", [-1.2, -1.0, 0.003, 0.97])
@pytest.mark.parametrize("log_std", [-7.0, -4.0, -1.0, 1.0])
def test_decoder_sums_to_one_over_the_256_values(mean, log_std, dtype, x64):
    values = jnp.arange(256, dtype=dtype) / dtype(127.5) - 1
    mass = jnp.exp(discretised_log_likelihood(values, dtype(mean), dtype(log_std)))
    assert mass.dtype == dtype and float(mass.sum()) == pytest.approx(1, abs=1e-5 if dtype == jnp.float32 else 1e-9)


def test_kl_is_the_integral(x64):
    x = np.linspace(-12, 12, 200001)
    log_density = lambda m, v: -0.5 * ((x - m) ** 2 / np.exp(v) + v + np.log(2 * np.pi))  # noqa: E731
    p, q = log_density(0.3, -0.5), log_density(-0.2, 0.4)
    expected = np.sum(np.exp(p) * (p - q)) * (x[1] - x[0])
    assert float(normal_kl(0.3, -0.5, -0.2, 0.4)) == pytest.approx(expected, rel=1e-9)


def test_the_prior_term_has_the_published_value(x64):
    last = linear().level(1.0)
    nats = normal_kl(last.alpha * 0.5, 2 * jnp.log(last.sigma), 0.0, 0.0)
    assert float(nats / np.log(2)) == pytest.approx(7.2787e-06, rel=1e-4)


@pytest.mark.parametrize("build", [linear, cosine_discrete])
def test_the_first_small_variance_is_the_second(build, x64):
    schedule, k = build(), np.arange(1, 1001)
    bar = np.concatenate([[1], np.asarray(schedule.level(k / 1000).alpha) ** 2])
    beta = 1 - bar[1:] / bar[:-1]
    tilde = beta * (1 - bar[:-1]) / (1 - bar[1:])
    small, large = log_variance_bounds(schedule, k / 1000)
    np.testing.assert_allclose(small, np.log(np.append(tilde[1], tilde[1:])), rtol=1e-7)
    np.testing.assert_allclose(large, np.log(beta), rtol=1e-7)
    if build is linear:
        assert float(small[0]) == pytest.approx(-9.81672513529567, rel=1e-11)


def terms(frac, x0_error, dtype=jnp.float32):
    schedule = linear()
    t = jnp.asarray([0.001, 0.002, 0.5, 1.0], dtype).reshape(-1, 1, 1, 1)
    x0, eps = jnp.full((4, 2, 2, 3), 51 / 127.5 - 1, dtype), jnp.full((4, 2, 2, 3), 0.4, dtype)
    level = schedule.level(t)
    x_t = corrupt(x0, eps, level)
    guess = predict(x0 + x0_error, x_t, level, jnp.full_like(x0, frac))
    return np.asarray(jax.jit(lambda *args: variational_term(schedule, *args))(guess, x0, x_t, t))


def test_the_true_reverse_step_costs_nothing():
    value = terms(frac=0.0, x0_error=0.0)
    assert value.shape == (4,) and np.all(abs(value[1:]) < 1e-6)


def test_the_bounds_terms_are_the_formulas(x64):
    """KL and decoder written out with DDPM's indices, 0 to T - 1."""
    frac, error = 0.3, 0.05
    bar = np.concatenate([[1], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))])
    expected = []
    for k in (1, 2, 500, 1000):
        beta = 1 - bar[k] / bar[k - 1]
        tilde = max(k, 2)
        tilde = (1 - bar[tilde] / bar[tilde - 1]) * (1 - bar[tilde - 1]) / (1 - bar[tilde])
        log_variance = frac * np.log(beta) + (1 - frac) * np.log(tilde)
        shift = beta * np.sqrt(bar[k - 1]) / (1 - bar[k]) * error
        kl = 0.5 * (log_variance - np.log(tilde) + (tilde + shift**2) / np.exp(log_variance) - 1)
        x0 = jnp.float64(51 / 127.5 - 1)
        decoder = -float(discretised_log_likelihood(x0, x0 + error, log_variance / 2))
        expected.append((decoder if k == 1 else kl) / np.log(2))
    np.testing.assert_allclose(terms(frac, error, jnp.float64), expected, rtol=1e-6)
