import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian, mixture, predict
from scipy.special import logsumexp
from scipy.stats import norm

from diffusion.gaussian import corrupt, posterior
from diffusion.grids import GRIDS
from diffusion.likelihood import (
    data_term,
    discretised_log_likelihood,
    log_variance_bounds,
    normal_kl,
    prior_term,
    variational_bound,
    variational_term,
)
from diffusion.probability_flow import bits_per_dim, dequantise, exact, hutchinson, log_likelihood
from diffusion.schedules import SCHEDULES, clean_at_zero

linear, cosine, cosine_discrete = (SCHEDULES[name] for name in ("linear", "cosine", "cosine_discrete"))
MEAN, VARIANCE = 0.2, 0.25


def keys(n):
    return jax.vmap(jax.random.key)(jnp.arange(n))


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
    value = prior_term(jnp.full((2, 3, 3, 1), 0.5), linear().level(jnp.float64(1)))
    assert value.shape == (2,) and float(value[0]) == pytest.approx(7.2787e-06, rel=1e-4)


def test_the_prior_term_takes_the_noise_that_sampling_starts_from(x64):
    last, x0 = SCHEDULES["edm"]().level(jnp.float64(1)), jnp.full((1, 2, 2, 1), 0.5)
    assert float(prior_term(x0, last, last.sigma)[0]) == pytest.approx(0.5 * (0.5 / 80) ** 2 / np.log(2), rel=1e-9)


def test_the_data_term_is_the_decoders_at_the_first_level(x64):
    x0, eps, first = jnp.full((1, 2, 2, 1), 0.2), jnp.full((1, 2, 2, 1), -0.7), cosine(-10, 8).level(jnp.float64(0))
    r = float(first.sigma / first.alpha)
    mass = np.diff(norm(0.2 - 0.7 * r, r).cdf([0.2 - 1 / 255, 0.2 + 1 / 255]))
    assert float(data_term(x0, eps, first)[0]) == pytest.approx(-np.log2(mass[0]), rel=2e-2)


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


def design(n):
    """x0 and eps in all four signs: the mean over them of a quadratic is its expectation. [n 2 2 1] each."""
    x0 = MEAN + np.sqrt(VARIANCE) * jnp.array([[1.0, 1.0], [-1.0, -1.0]])
    eps = jnp.array([[1.0, -1.0], [1.0, -1.0]])
    return (jnp.broadcast_to(each.reshape(1, 2, 2, 1), (n, 2, 2, 1)) for each in (x0, eps))


def reverse_variance(schedule, t):
    """Of p(x_s | x_t) itself, on N(MEAN, VARIANCE): the posterior's and what x_t leaves open of x0."""
    level = clean_at_zero(schedule).level
    noisy, q = level(t), posterior(level(t), level(t - 1 / schedule.steps))
    open_ = VARIANCE * noisy.sigma**2 / (noisy.alpha**2 * VARIANCE + noisy.sigma**2)
    return q, q.small + q.on_x0**2 * open_


def bound(schedule, frac):
    """The expected bound without its decoder, in nats per dimension."""
    t = (jnp.arange(2, schedule.steps + 1) / schedule.steps).reshape(-1, 1, 1, 1)
    (x0, eps), level = design(len(t)), schedule.level(t)
    x_t = corrupt(x0, eps, level)
    guess = gaussian(schedule, MEAN, VARIANCE)(x_t, t)._replace(frac=frac(t) * jnp.ones_like(x0))
    terms = jax.jit(lambda *args: variational_term(schedule, *args))(guess, x0, x_t, t)
    return float(terms.sum() + prior_term(x0[:1], schedule.level(jnp.float64(1)))[0]) * np.log(2)


def tight(schedule):
    """I(x0; x at the first level), and the prior's own KL: what no variance can save."""
    first, last = (schedule.level(jnp.float64(t)) for t in (1 / schedule.steps, 1.0))
    variance = float(last.alpha**2 * VARIANCE + last.sigma**2)
    prior = 0.5 * (variance + float(last.alpha * MEAN) ** 2 - 1 - np.log(variance))
    return 0.5 * np.log1p(VARIANCE * np.exp(float(first.logsnr))) + prior


@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize("build", [linear, cosine_discrete])
def test_the_bound_is_tight_with_the_exact_reverse_variance(build, steps, x64):
    schedule = build(steps)

    def frac(t):
        q, variance = reverse_variance(schedule, t)
        return (jnp.log(variance) - jnp.log(q.small)) / (jnp.log(q.large) - jnp.log(q.small))

    assert bound(schedule, frac) == pytest.approx(tight(schedule), abs=1e-4)


@pytest.mark.parametrize("name, fixed", [("small", 0.0), ("large", 1.0)])
@pytest.mark.parametrize("build", [linear, cosine_discrete])
def test_a_fixed_variance_costs_what_the_formula_says(build, name, fixed, x64):
    """A step's KL rises by (V / fixed - 1 - log(V / fixed)) / 2."""
    schedule = build(200)
    q, variance = reverse_variance(schedule, jnp.arange(2, 201) / 200)
    ratio = np.asarray(variance / getattr(q, name))
    gap = np.sum(ratio - 1 - np.log(ratio)) / 2
    assert gap > 1e-3
    assert bound(schedule, lambda t: fixed) == pytest.approx(tight(schedule) + gap, abs=1e-4)


def test_the_variational_bound_is_its_terms_from_noise_to_data():
    schedule, x0 = linear(50), jnp.round(127.5 * jnp.full((2, 4, 4, 1), 0.3)) / 127.5
    denoise = gaussian(schedule, MEAN, VARIANCE)
    value = jax.jit(lambda: variational_bound(keys(2), denoise, schedule, x0, frac=0.0))()
    assert value.prior.shape == (2,) and value.terms.shape == (50, 2)
    np.testing.assert_allclose(value.total, value.prior + value.terms.sum(axis=0), rtol=1e-6)
    one = jax.jit(lambda: variational_bound(keys(1), denoise, schedule, x0[:1], frac=0.0))()
    np.testing.assert_allclose(value.terms[:, :1], one.terms, rtol=1e-4)
    large = jax.jit(lambda: variational_bound(keys(2), denoise, schedule, x0, frac=1.0))()
    assert np.all(large.terms[0] != value.terms[0])
    with pytest.raises(ValueError, match="variational_bound needs a discrete schedule; use probability_flow"):
        variational_bound(keys(2), denoise, cosine(), x0)


def walk(schedule, steps, grid="logsnr"):
    return GRIDS[grid](schedule, steps)[:-1][::-1]


@pytest.mark.parametrize("divergence", [exact, hutchinson(keys(3))])
@pytest.mark.parametrize(
    "name, steps, grid",
    [("cosine", 1000, "logsnr"), ("vp", 500, "logsnr"), ("edm", 500, "logsnr"), ("linear", 1000, "trailing")],
)
def test_log_p_of_a_gaussian_is_its_closed_form(name, steps, grid, divergence, x64):
    schedule, times = SCHEDULES[name](), walk(SCHEDULES[name](), steps, grid)
    alpha, sigma = map(float, schedule.level(times[0]))
    mean, std = alpha * MEAN, np.sqrt(alpha**2 * VARIANCE + sigma**2)
    x = mean + std * jnp.array([0.3, 0.7, 1.0]).reshape(3, 1, 1, 1) * jnp.linspace(-2, 2, 4).reshape(1, 2, 2, 1)
    denoise = gaussian(schedule, MEAN, VARIANCE)
    value = jax.jit(lambda x: log_likelihood(denoise, schedule, x, times, divergence))(x)
    expected = norm(mean, std).logpdf(x).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(value.log_p / 4, expected / 4, atol=1e-3)
    np.testing.assert_allclose(value.noise, (x - mean) / std, atol=0.02)


@pytest.mark.parametrize("name", ["cosine", "edm"])
def test_log_p_of_a_mixture_is_its_closed_form(name, x64):
    """Of mean 0, as the noise that the model begins with."""
    schedule, times = SCHEDULES[name](), walk(SCHEDULES[name](), 1000)
    weights, means, variance = np.array([0.4, 0.6]), np.array([[-0.6, 0.3], [0.4, -0.2]]), 0.04
    alpha, sigma = map(float, schedule.level(times[0]))
    x = jnp.array([[-0.6, 0.4], [0.0, 0.1], [0.5, -0.4], [0.2, 0.5]]).reshape(4, 1, 1, 2)
    denoise = mixture(schedule, weights, means, variance)
    value = jax.jit(lambda x: log_likelihood(denoise, schedule, x, times, exact))(x)
    each = norm(alpha * means, np.sqrt(alpha**2 * variance + sigma**2)).logpdf(np.asarray(x).reshape(4, 1, 2)).sum(-1)
    np.testing.assert_allclose(value.log_p / 2, logsumexp(np.log(weights) + each, axis=1) / 2, atol=1e-3)


def test_hutchinsons_mean_is_the_trace(x64):
    """Of a field with a full Jacobian, where a single estimate is not."""
    matrix = jax.random.normal(jax.random.key(0), (6, 6))
    field = lambda x: jnp.sin(x.reshape(-1, 6) @ matrix).reshape(x.shape)  # noqa: E731
    x = jnp.broadcast_to(jnp.linspace(-1, 1, 6).reshape(1, 1, 2, 3), (4096, 1, 2, 3))
    value, trace = jax.jit(lambda x: exact(field, x))(x[:1])
    jacobian = jax.jacobian(lambda x: field(x).ravel())(x[:1]).reshape(6, 6)
    assert float(trace[0]) == pytest.approx(float(jnp.trace(jacobian)), rel=1e-9)
    same, estimates = jax.jit(lambda x: hutchinson(keys(4096))(field, x))(x)
    np.testing.assert_allclose(same[0], value[0], rtol=1e-12)
    error = float(estimates.std()) / 64
    assert error > 1e-3 and float(estimates.mean()) == pytest.approx(float(trace[0]), abs=4 * error)


def test_a_walk_that_cannot_be_is_refused():
    x, denoise = jnp.zeros((1, 2, 2, 1)), gaussian(cosine())
    for times in ([0.0, 0.5, 1.0], [0.1, 0.5, 0.9]):
        with pytest.raises(ValueError, match="they must rise from t > 0 to 1"):
            log_likelihood(denoise, cosine(), x, np.array(times), exact)
    with pytest.raises(ValueError, match=r"alpha\(1\) = 0; stop short of pure noise"):
        log_likelihood(denoise, SCHEDULES["flow"](), x, np.array([0.1, 1.0]), exact)


def test_uniform_values_cost_eight_bits_each():
    images = jnp.arange(256, dtype=jnp.uint8).reshape(1, 16, 16, 1)
    x = dequantise(keys(1), images)
    np.testing.assert_array_equal(jnp.round((x + 1) * 127.5).astype(jnp.uint8), images)
    assert len(set(np.asarray((x + 1) * 127.5 - images).ravel())) > 200
    edges = (np.array([0, 255]) + [-0.5, 0.5]) / 127.5 - 1
    assert edges[0] <= x.min() and x.max() <= edges[1]
    log_p = -256 * np.log(np.diff(edges))
    np.testing.assert_allclose(bits_per_dim(log_p, 256), 8, rtol=1e-12)
