import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian
from scipy.special import expit
from scipy.stats import norm

from diffusion.gaussian import corrupt
from diffusion.likelihood import data_term, prior_term, variational_bound, variational_term
from diffusion.losses import LEARNS_VARIANCE, LOSSES, WEIGHTINGS, hybrid, trivial, uncertain, vdm, weighted
from diffusion.prediction import PARAMETERISATIONS, decode, target
from diffusion.sampling import normal, stream
from diffusion.schedules import LEARNED, SCHEDULES
from diffusion.schedules.base import variance_preserving
from diffusion.uncertainty import init_uncertainty, log_variance

linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine"]

# The weight on the squared error of x0 where alpha^2 + sigma^2 = 1, with -d logsnr / dt
X0_WEIGHTS = {
    "simple": lambda snr, rate: snr,
    "snr": lambda snr, rate: snr,
    "uniform_x0": lambda snr, rate: 1 + 0 * snr,
    "uniform_v": lambda snr, rate: snr + 1,
    "uniform_flow": lambda snr, rate: (1 + np.sqrt(snr)) ** 2,
    "truncated_snr": lambda snr, rate: np.maximum(snr, 1),
    "min_snr": lambda snr, rate: np.minimum(snr, 5),
    "soft_min_snr": lambda snr, rate: snr * 4 / (snr + 4),
    "p2": lambda snr, rate: snr / (1 + snr),
    "sigmoid": lambda snr, rate: rate * expit(np.log(snr) - 2) * np.exp(2),
    "elbo": lambda snr, rate: rate * snr / 2,
    "edm": lambda snr, rate: (1 / snr + 0.25) / (0.25 / snr),
}
SETTINGS = {
    ("min_snr", 3.0): lambda snr, rate: np.minimum(snr, 3),
    ("soft_min_snr", 3.0): lambda snr, rate: snr * 3 / (snr + 3),
    ("p2", 0.5, 2.0): lambda snr, rate: snr / (2 + snr) ** 0.5,
    ("sigmoid", -1.0): lambda snr, rate: rate * expit(-1 - np.log(snr)) * snr,
    ("edm", 1.5): lambda snr, rate: (1 / snr + 2.25) / (2.25 / snr),
}


def batch(n, size=4):
    return jax.random.normal(jax.random.key(1), (2, n, size, size, 3))


def times(*values):
    return jnp.array(values).reshape(-1, 1, 1, 1)


def slope(schedule, t, h=1e-6):
    return np.asarray(schedule.level(t - h).logsnr - schedule.level(t + h).logsnr) / (2 * h)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_one_weight_on_x0_for_every_kind(name, kind, x64):
    schedule, t = cosine(), times(0.02, 0.3, 0.5, 0.8, 0.99)
    level, (x0, eps) = schedule.level(t), batch(5)
    parameterisation = PARAMETERISATIONS[kind](schedule)
    out = 0.9 * target(parameterisation, x0, eps, level) + 0.1
    guess = decode(parameterisation, out, corrupt(x0, eps, level), level)
    weight = X0_WEIGHTS[name](np.exp(np.asarray(level.logsnr)), slope(schedule, t)).ravel()
    expected = weight * np.mean((guess.x0 - x0) ** 2, axis=(1, 2, 3))
    actual = weighted(schedule, parameterisation, WEIGHTINGS[name]())(out, x0, eps, t)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


@pytest.mark.parametrize("case", SETTINGS)
def test_a_weightings_settings_are_its_papers(case, x64):
    schedule, t = cosine(), times(0.02, 0.3, 0.5, 0.8, 0.99)
    name, *settings = case
    level, rate = schedule.level(t), slope(schedule, t)
    weight = WEIGHTINGS[name](*settings)(level, rate) / level.sigma**2
    np.testing.assert_allclose(weight, SETTINGS[case](np.exp(np.asarray(level.logsnr)), rate), rtol=1e-9)


@pytest.mark.parametrize("name", ["edm", "flow", "sub_vp"])
def test_edms_weight_is_of_sigma_over_alpha(name, x64):
    schedule = SCHEDULES[name]()
    level = schedule.level(times(0.1, 0.5, 0.9))
    r, sd = level.ratio, 0.4
    weight = WEIGHTINGS["edm"](sd)(level, None) / level.sigma**2
    np.testing.assert_allclose(weight, (r**2 + sd**2) / (r * sd) ** 2, rtol=1e-9)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses_are_finite_at_extreme_levels(name, kind):
    schedule, t = cosine(-20, 20), times(0.0, 1.0)
    x0, eps = batch(2)
    loss = weighted(schedule, PARAMETERISATIONS[kind](schedule), WEIGHTINGS[name]())
    value, gradient = jax.jit(jax.value_and_grad(lambda out: loss(out, x0, eps, t).sum()))(0.5 * eps)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_min_snr_clamps_the_clean_end():
    clean, noisy = variance_preserving(jnp.float32(6)), variance_preserving(jnp.float32(-6))
    simple, clamped = WEIGHTINGS["simple"](), WEIGHTINGS["min_snr"](gamma=5.0)
    assert clamped(noisy, None) == simple(noisy, None)
    assert clamped(clean, None) / simple(clean, None) == pytest.approx(5 * np.exp(-6), rel=1e-5)


@pytest.mark.parametrize("size", [4, 64])
def test_the_zero_predictor_of_unit_variance_loses_one(size):
    schedule, (x0, eps) = linear(), batch(1, size)
    eps = (eps - eps.mean()) / eps.std()
    loss = weighted(schedule, PARAMETERISATIONS["eps"](schedule), WEIGHTINGS["simple"]())
    assert loss(jnp.zeros_like(eps), x0, eps, times(0.5))[0] == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", WEIGHTINGS)
def test_the_trivial_line_is_the_loss_of_the_linear_denoiser(name):
    schedule, parameterisation = cosine(), PARAMETERISATIONS["v"](cosine())
    t = times(0.1, 0.4, 0.8)
    x0, eps = batch(3, 64)
    x0, level = 0.5 * x0, schedule.level(t)
    guess = gaussian(schedule)(corrupt(x0, eps, level), t)
    out = target(parameterisation, guess.x0, guess.eps, level)
    loss = weighted(schedule, parameterisation, WEIGHTINGS[name]())(out, x0, eps, t)
    expected = trivial(WEIGHTINGS[name](), level, jnp.float32(slope(schedule, t, 1e-3)), 0.25)
    np.testing.assert_allclose(loss, expected.ravel(), rtol=0.05)
    ends = cosine(-20, 20).level(times(0.0, 1.0))
    assert np.all(np.isfinite(trivial(WEIGHTINGS[name](), ends, 1e3, 0.25)))


@pytest.mark.parametrize("name", LOSSES)
def test_an_examples_loss_is_its_own(name):
    schedule, t, (x0, eps) = cosine() if name == "vdm" else linear(), times(0.1, 0.5, 0.9), batch(3)
    loss = jax.jit(LOSSES[name](schedule, PARAMETERISATIONS["v"](schedule), WEIGHTINGS["simple"]()))
    out = jnp.tile(0.7 * eps, 2 if name in LEARNS_VARIANCE else 1)
    rows = [loss(out[i : i + 1], x0[i : i + 1], eps[i : i + 1], t[i : i + 1])[0] for i in range(3)]
    np.testing.assert_allclose(loss(out, x0, eps, t), rows, rtol=1e-5)


def hybrid_case(kind="eps", steps=1000):
    schedule = linear(steps)
    parameterisation, t = PARAMETERISATIONS[kind](schedule), times(1 / steps, 2 / steps, 0.5, 1.0)
    x0, eps = batch(4)
    x0 = jnp.round(127.5 * jnp.clip(x0, -1, 1) + 127.5) / 127.5 - 1
    out = jnp.concatenate([0.9 * target(parameterisation, x0, eps, schedule.level(t)), 0.3 * eps], -1)
    return schedule, parameterisation, out, x0, eps, t


@pytest.mark.parametrize("steps", [1000, 4000])
def test_hybrid_is_the_weighted_loss_plus_the_bounds_term(steps, x64):
    schedule, parameterisation, out, x0, eps, t = hybrid_case(steps=steps)
    level = schedule.level(t)
    x_t = corrupt(x0, eps, level)
    guess = decode(parameterisation, out[..., :3], x_t, level)._replace(frac=(out[..., 3:] + 1) / 2)
    simple = np.mean((out[..., :3] - eps) ** 2, axis=(1, 2, 3))
    bound = jax.jit(lambda *args: variational_term(schedule, *args))(guess, x0, x_t, t)
    actual = jax.jit(hybrid(schedule, parameterisation, WEIGHTINGS["simple"]()))(out, x0, eps, t)
    np.testing.assert_allclose(actual, simple + steps / 1000 * bound, rtol=1e-9)


def gradient(loss, out, x0, eps, t):
    return jax.jit(jax.grad(lambda out: loss(out, x0, eps, t).sum()))(out)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_the_hybrids_bound_trains_the_variance_alone(kind):
    schedule, parameterisation, out, *rest = hybrid_case(kind)
    simple = WEIGHTINGS["simple"]()
    both = gradient(hybrid(schedule, parameterisation, simple), out, *rest)
    mean = gradient(weighted(schedule, parameterisation, simple), out[..., :3], *rest)
    np.testing.assert_allclose(both[..., :3], mean, rtol=1e-5)
    assert np.all(np.isfinite(both)) and np.all(np.any(both[..., 3:] != 0, axis=(1, 2, 3)))


def test_the_variational_loss_trains_the_mean_as_well():
    schedule, parameterisation, out, *rest = hybrid_case()
    slopes = gradient(LOSSES["variational"](schedule, parameterisation, None), out, *rest)
    assert np.all(np.isfinite(slopes)) and np.all(np.any(slopes[..., :3] != 0, axis=(1, 2, 3)))


def test_the_variational_loss_is_on_average_the_bound(x64):
    """Over all levels with the same noise: T times the mean is the sum of the bound's terms."""
    schedule, keys = linear(50), jax.vmap(jax.random.key)(jnp.arange(2))
    parameterisation, x0 = PARAMETERISATIONS["eps"](schedule), jnp.round(0.5 * batch(2)[0] * 127.5) / 127.5
    loss = LOSSES["variational"](schedule, parameterisation, None)
    oracle = gaussian(schedule, frac=0.4)

    def at(k):
        t, eps = jnp.full((2, 1, 1, 1), k / 50), normal(stream(keys, k), x0.shape[1:], x0.dtype)
        guess = oracle(corrupt(x0, eps, schedule.level(t)), t)
        return loss(jnp.concatenate([guess.eps, 2 * guess.frac - 1], -1), x0, eps, t)

    bound = jax.jit(lambda: variational_bound(keys, oracle, schedule, x0))()
    each = jax.jit(lambda: jax.lax.map(at, jnp.arange(50, 0, -1)))()
    np.testing.assert_allclose(each / 50, bound.terms, rtol=1e-9)
    np.testing.assert_allclose(bound.total, bound.prior + each.mean(axis=0), rtol=1e-9)


def vdm_mean(schedule, variance, n=4000):
    """The loss of the exact denoiser on N(0, variance), over t on a fine grid and over its signs and quantiles.

    x0 = +-std and eps at quantiles scaled to unit variance make every squared error's mean exact.
    """
    eps = norm.ppf((np.arange(32) + 0.5) / 32)
    eps = jnp.asarray(np.tile(eps / eps.std(), 2).reshape(1, 8, 8, 1))
    x0 = jnp.asarray(np.repeat([-1, 1], 32).reshape(1, 8, 8, 1) * np.sqrt(variance))
    x0, eps = jnp.broadcast_to(x0, (n, 8, 8, 1)), jnp.broadcast_to(eps, (n, 8, 8, 1))
    t = ((jnp.arange(n) + 0.5) / n).reshape(-1, 1, 1, 1)
    guess = gaussian(schedule, 0.0, variance)(corrupt(x0, eps, schedule.level(t)), t)
    loss = vdm(schedule, PARAMETERISATIONS["eps"](schedule), None)
    return float(jax.jit(loss)(guess.eps, x0, eps, t).mean())


@pytest.mark.parametrize("variance", [0.04, 0.25])
def test_the_vdm_loss_bounds_the_entropy_and_nearly_meets_it(variance, x64):
    """The entropy of N(0, variance) in bins of 2 / 255, and what the decoder loses by not knowing the variance.

    The first level's noise is wider than a bin: below it the denoiser of values in bins is another than the Gaussian's.
    """
    learned = LEARNED["monotone"](logsnr_max=7.0, hidden=0)
    bound = vdm_mean(learned.schedule(learned.init(jax.random.key(0))), variance)
    entropy = float(norm(0, np.sqrt(variance)).entropy()) / np.log(2) + np.log2(127.5)
    assert bound > entropy
    assert bound == pytest.approx(entropy + np.log2(1 + np.exp(-7) / variance) / 2, abs=2e-3)


@pytest.mark.parametrize(
    "name, settings",
    [("cosine", {"logsnr_min": -8.0, "logsnr_max": 8.0}), ("vp", {"first": 0.01}), ("sub_vp", {"first": 0.01})],
)
def test_between_its_ends_the_vdm_loss_does_not_depend_on_the_schedule(name, settings, x64):
    """With prior and data terms taken off, it is a function of logsnr at the ends alone (VDM, section 5.1)."""
    schedule, variance = SCHEDULES[name](**settings), 0.25
    first, last = (schedule.level(jnp.float64(t)) for t in (0, 1))
    x0 = np.sqrt(variance) * jnp.array([-1.0, 1.0]).reshape(1, 2, 1, 1)
    eps = norm.ppf((np.arange(32) + 0.5) / 32)
    eps = jnp.asarray(eps / eps.std()).reshape(1, 32, 1, 1)
    ends = float(data_term(jnp.zeros_like(eps), eps, first)[0] + prior_term(x0, last, last.sigma)[0])
    gain = lambda level: np.log1p(variance * np.exp(float(level.logsnr))) / 2 / np.log(2)  # noqa: E731
    assert vdm_mean(schedule, variance) - ends == pytest.approx(gain(first) - gain(last), abs=2e-3)


def test_a_learned_schedule_is_trained_by_the_vdm_loss():
    learned, (x0, eps), kind = LEARNED["monotone"](hidden=8), batch(3), PARAMETERISATIONS["v"](cosine())

    def loss(params):
        return vdm(learned.schedule(params), kind, None)(0.5 * eps, x0, eps, times(0.2, 0.5, 0.8)).sum()

    slopes = jax.jit(jax.grad(loss))(learned.init(jax.random.key(0)))
    assert all(np.all(np.isfinite(slope)) and np.any(slope != 0) for slope in jax.tree.leaves(slopes))


def test_the_best_uncertainty_is_the_log_of_the_loss(x64):
    raw = np.array([0.01, 0.5, 3.0])
    total = lambda u: uncertain(lambda *_: raw, lambda t: u)(None, None, None, None)  # noqa: E731
    best = jnp.log(raw)
    np.testing.assert_allclose(total(best), 1 + best, rtol=1e-12)
    np.testing.assert_allclose(jax.grad(lambda u: total(u).sum())(best), 0, atol=1e-12)
    assert np.all(total(best + 0.1) > total(best)) and np.all(total(best - 0.1) > total(best))


def test_the_uncertainty_starts_at_none_and_learns_its_last_layer_alone():
    params, logsnr = init_uncertainty(jax.random.key(0)), jnp.linspace(-15, 15, 7).reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(log_variance(params, logsnr), np.zeros(7))
    slopes = jax.grad(lambda params: log_variance(params, logsnr)[2])(params | {"weight": jnp.ones(128)})
    assert np.any(slopes["weight"] != 0) and not np.any(slopes["frequency"]) and not np.any(slopes["phase"])


def test_a_loss_that_does_not_fit_is_refused():
    schedule, parameterisation, out, x0, eps, t = hybrid_case()
    simple = WEIGHTINGS["simple"]()
    for name in LEARNS_VARIANCE:
        with pytest.raises(ValueError, match=f"{name} learns the variance, .* 3 output channels; give it 6"):
            LOSSES[name](schedule, parameterisation, simple)(out[..., :3], x0, eps, t)
        with pytest.raises(ValueError, match=f"{name} needs a discrete schedule, .* use weighted or vdm"):
            LOSSES[name](cosine(), parameterisation, simple)
    with pytest.raises(ValueError, match="or use hybrid"):
        weighted(schedule, parameterisation, simple)(out, x0, eps, t)
    with pytest.raises(ValueError, match="vdm needs a continuous schedule, .* use variational"):
        vdm(schedule, parameterisation, simple)


@pytest.mark.parametrize(
    "name, settings, words",
    [
        ("min_snr", {"gamma": 0.0}, "gamma: got 0.0"),
        ("soft_min_snr", {"gamma": -1.0}, "gamma: got -1.0"),
        ("p2", {"k": 0.0}, "k: got 0.0"),
        ("edm", {"sigma_data": 0.0}, "sigma_data: got 0.0"),
    ],
)
def test_a_weighting_that_cannot_be_is_refused(name, settings, words):
    with pytest.raises(ValueError, match=f"{words}; give a positive number"):
        WEIGHTINGS[name](**settings)
