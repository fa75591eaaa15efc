import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from diffusion.gaussian import NoiseLevel
from diffusion.schedules import (
    COMPOSED,
    LEARNED,
    SCHEDULES,
    Schedule,
    checked,
    clean_at_zero,
    from_betas,
    preserves_variance,
    rate,
)
from diffusion.schedules.base import variance_preserving

ALL = {
    **SCHEDULES,
    "linear to noise": lambda: SCHEDULES["linear"](zero_terminal=True),
    "flow shifted": lambda: SCHEDULES["flow"](shift=3.0),
    "shifted": lambda: COMPOSED["shifted"](SCHEDULES["cosine"](), resolution=256),
    "interpolated": lambda: COMPOSED["interpolated"](SCHEDULES["cosine"]()),
    "interpolated table": lambda: COMPOSED["interpolated"](SCHEDULES["linear"]()),
    "learned": lambda: LEARNED["monotone"](hidden=32).schedule(LEARNED["monotone"](hidden=32).init(jax.random.key(0))),
}
TO_NOISE = {"flow", "flow shifted", "linear to noise"}  # alpha(1) = 0
CONTINUOUS = [name for name in ALL if ALL[name]().steps is None]
VARIANCE_PRESERVED = set(ALL) - {"sub_vp", "ve", "edm", "flow", "flow shifted"}


def betas(name, steps):
    if name == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    return np.array([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)])


def logsnr(schedule, t):
    return np.asarray(jax.jit(lambda t: schedule.level(t).logsnr)(t))


@pytest.mark.parametrize("name", ALL)
def test_logsnr_falls_strictly_and_stays_finite_in_float32(name):
    level = checked(ALL[name]()).level(jnp.arange(1, 1001) / 1000)
    assert level.alpha.dtype == level.sigma.dtype == jnp.float32
    assert np.all(np.diff(level.logsnr) < 0) and np.all(np.isfinite(level.logsnr[:-1]))
    assert np.isfinite(level.logsnr[-1]) != (name in TO_NOISE)
    assert (level.alpha[-1] == 0) == (name in TO_NOISE)


@pytest.mark.parametrize("name", ALL)
def test_alpha_and_sigma_lie_on_the_circle_or_say_that_they_do_not(name):
    level = ALL[name]().level(jnp.arange(1, 1001) / 1000)
    off = np.max(abs(level.alpha**2 + level.sigma**2 - 1))
    assert preserves_variance(ALL[name]()) == (name in VARIANCE_PRESERVED) == (off < 5e-7)


@pytest.mark.parametrize("name", ALL)
def test_time_is_the_inverse_of_level(name, x64):
    schedule, t = ALL[name](), np.arange(1, 1000) / 1000
    there_and_back = jax.jit(lambda t: schedule.time(schedule.level(t).logsnr))
    np.testing.assert_allclose(there_and_back(np.float32(t)), t, atol=2e-5)
    np.testing.assert_allclose(there_and_back(t), t, atol=1e-10)
    outside = jax.jit(schedule.time)(np.array([-60.0, 60.0]))
    assert np.all((0 <= outside) & (outside <= 1))


@pytest.mark.parametrize("name", ALL)
def test_sampling_ends_in_the_literal_data_level(name):
    schedule = ALL[name]()
    clean = clean_at_zero(schedule)
    assert clean.level(jnp.float32(0)) == (1, 0)
    assert clean.level(jnp.float32(0.3)) == schedule.level(jnp.float32(0.3))
    if schedule.steps and name in SCHEDULES:
        assert schedule.level(jnp.float32(0)) == (1, 0)


@pytest.mark.parametrize("name", ALL)
def test_levels_keep_the_dtype_of_their_time(name, x64):
    for dtype in (jnp.float32, jnp.float64):
        schedule = ALL[name]()
        level = jax.eval_shape(schedule.level, jax.ShapeDtypeStruct((2, 1, 1, 1), dtype))
        time = jax.eval_shape(schedule.time, jax.ShapeDtypeStruct((2, 1, 1, 1), dtype))
        assert level.alpha.shape == level.sigma.shape == time.shape == (2, 1, 1, 1)
        if name != "learned":  # its parameters are float32
            assert level.alpha.dtype == level.sigma.dtype == time.dtype == dtype


@pytest.mark.parametrize("name", CONTINUOUS)
def test_rate_is_the_slope_of_logsnr(name, x64):
    schedule, t, h = ALL[name](), np.linspace(0.01, 0.99, 50), 1e-5
    slope = (logsnr(schedule, t - h) - logsnr(schedule, t + h)) / (2 * h)
    np.testing.assert_allclose(jax.jit(lambda t: rate(schedule, t))(t), slope, rtol=1e-5)


@pytest.mark.parametrize("name", ["linear", "cosine_discrete"])
def test_rate_of_a_table_is_its_differences(name, x64):
    schedule = SCHEDULES[name](100)
    falls = -100 * np.diff(logsnr(schedule, np.arange(1, 101) / 100))
    expected = np.concatenate([falls[:1], (falls[1:] + falls[:-1]) / 2, falls[-1:]])
    np.testing.assert_allclose(rate(schedule, np.arange(1, 101) / 100), expected, rtol=1e-9)


@pytest.mark.parametrize("name", ALL)
def test_rate_is_positive_and_finite_at_both_ends_in_float32(name):
    schedule = ALL[name]()
    value = jax.jit(lambda t: rate(schedule, t))(jnp.array([1 / (schedule.steps or jnp.inf), 1.0]))
    assert value.dtype == jnp.float32 and np.all((0 < value) & (value < np.inf))


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine_discrete"])
def test_table_is_the_float64_product_at_every_level(name, steps):
    bar = np.cumprod(1 - betas(name, steps))
    level = SCHEDULES[name](steps=steps).level(np.arange(1, steps + 1, dtype=np.float32) / np.float32(steps))
    np.testing.assert_allclose(level.alpha, np.sqrt(bar), rtol=1e-7)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - bar), rtol=1e-7)


def test_tables_have_the_published_values(x64):
    linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine_discrete"]
    bar = linear().level(jnp.array([1, 2, 500, 1000]) / 1000).alpha ** 2
    np.testing.assert_allclose(
        bar, [0.9999, 0.9997800920720721, 0.07858724288177824, 4.035829765375676e-05], rtol=1e-12
    )
    np.testing.assert_allclose(logsnr(linear(), jnp.array([0.001, 1.0])), [9.2102403670, -10.1176731833], rtol=1e-10)
    bar = cosine().level(jnp.array([0.001, 0.5, 0.999, 1.0])).alpha ** 2
    np.testing.assert_allclose(1 - bar[0], 4.128422482196914e-05, rtol=1e-10)
    np.testing.assert_allclose(bar[jnp.array([1, 3])], [0.4938435904, 2.428767e-09], rtol=2e-7)
    np.testing.assert_allclose(1 - bar[3] / bar[2], 0.999, rtol=1e-12)
    bar = cosine(4000).level(jnp.array([1 / 4000, 1.0])).alpha ** 2
    np.testing.assert_allclose([1 - bar[0], bar[1]], [9.865818813681315e-06, 1.517980e-10], rtol=4e-7)


def test_zero_terminal_shifts_and_scales_alpha(x64):
    alpha = np.sqrt(np.cumprod(1 - betas("linear", 1000)))
    expected = (alpha - alpha[-1]) * alpha[0] / (alpha[0] - alpha[-1])
    level = SCHEDULES["linear"](zero_terminal=True).level(np.arange(1, 1001) / 1000)
    np.testing.assert_allclose(level.alpha, expected, rtol=1e-12)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - expected**2), rtol=1e-12)
    assert level.alpha[0] == pytest.approx(alpha[0], rel=1e-15)


@pytest.mark.parametrize("limits", [(-15.0, 15.0), (-20.0, 20.0), (-4.0, 11.0)])
def test_cosine_is_the_tangent_between_its_limits(limits, x64):
    first, last = (math.atan(math.exp(-limit / 2)) for limit in limits[::-1])
    t = np.linspace(0, 1, 21)
    expected = -2 * np.log(np.tan(first + t * (last - first)))
    np.testing.assert_allclose(logsnr(SCHEDULES["cosine"](*limits), t), expected, atol=1e-6)


@pytest.mark.parametrize("start, end, tau", [(-3.0, 3.0, 1.0), (0.0, 3.0, 0.7), (-3.0, 1.0, 1.1)])
def test_sigmoid_is_its_definition_cut_off_at_the_limits(start, end, tau, x64):
    s = lambda u: scipy.special.expit((start + u * (end - start)) / tau)  # noqa: E731
    curve = lambda alpha2: (tau * scipy.special.logit(s(1) - alpha2 * (s(1) - s(0))) - start) / (end - start)  # noqa: E731
    t = np.linspace(0, 1, 21)
    level = SCHEDULES["sigmoid"](start, end, tau).level(t)
    first, last = curve(scipy.special.expit([15.0, -15.0]))
    np.testing.assert_allclose(curve(np.asarray(level.alpha) ** 2), first + t * (last - first), atol=1e-12)
    np.testing.assert_allclose(level.logsnr[jnp.array([0, -1])], [15, -15], rtol=1e-9)


@pytest.mark.parametrize("mean, scale", [(0.0, 0.5), (-1.0, 1.5)])
def test_laplace_draws_logsnr_from_its_distribution(mean, scale, x64):
    t, cdf = np.linspace(0, 1, 41), scipy.stats.laplace(mean, scale).cdf
    actual = cdf(logsnr(SCHEDULES["laplace"](mean, scale), t))
    np.testing.assert_allclose(actual, cdf(15) + t * (cdf(-7) - cdf(15)), atol=1e-12)


def log_mean(t):
    """score_sde's log_mean_coeff, over the times that it trains on."""
    t = 1e-5 + (1 - 1e-5) * t
    return -0.25 * t**2 * (20 - 0.1) - 0.5 * t * 0.1


def test_vp_and_sub_vp_are_the_score_sdes(x64):
    t = np.linspace(0, 1, 21)
    for name, sigma in (("vp", np.sqrt(1 - np.exp(2 * log_mean(t)))), ("sub_vp", 1 - np.exp(2 * log_mean(t)))):
        level = SCHEDULES[name]().level(t)
        np.testing.assert_allclose(level.alpha, np.exp(log_mean(t)), rtol=1e-12)
        np.testing.assert_allclose(level.sigma, sigma, rtol=1e-9)
        assert np.all(level.alpha**2 + level.sigma**2 < 1) == (name == "sub_vp")


def test_vp_follows_the_linear_table():
    t = np.arange(1, 1001) / 1000
    assert np.max(abs(logsnr(SCHEDULES["vp"](first=1e-9), t) - logsnr(SCHEDULES["linear"](), t))) < 0.0955


def test_ve_is_geometric_and_edm_is_a_power(x64):
    t = np.linspace(0, 1, 21)
    np.testing.assert_allclose(SCHEDULES["ve"](0.02, 30.0).level(t).sigma, np.geomspace(0.02, 30, 21), rtol=1e-12)
    sigma = np.asarray(SCHEDULES["edm"](0.002, 80.0).level(t).sigma)
    np.testing.assert_allclose(sigma, np.linspace(0.002 ** (1 / 7), 80 ** (1 / 7), 21) ** 7, rtol=1e-11)
    assert np.all(SCHEDULES["ve"]().level(t).alpha == 1) and np.all(SCHEDULES["edm"]().level(t).alpha == 1)


@pytest.mark.parametrize("shift", [0.5, 1.0, 3.0])
def test_flow_is_shifted_as_sd3s(shift, x64):
    t = np.linspace(0.01, 0.99, 21)
    u = shift * t / (1 + (shift - 1) * t)
    level = SCHEDULES["flow"](shift).level(t)
    np.testing.assert_allclose([level.alpha, level.sigma], [1 - u, u], rtol=1e-12)
    np.testing.assert_allclose(level.logsnr, 2 * np.log((1 - t) / t) - 2 * np.log(shift), atol=1e-12)


@pytest.mark.parametrize("base", ["cosine", "linear"])
def test_a_shift_adds_twice_the_log_of_the_sizes(base, x64):
    schedule, t = SCHEDULES[base](), np.arange(1, 1001) / 1000
    shifted = COMPOSED["shifted"](schedule, resolution=256, reference=64)
    np.testing.assert_allclose(logsnr(shifted, t) - logsnr(schedule, t), -2.7725887222, atol=1e-9)
    assert shifted.steps == schedule.steps


@pytest.mark.parametrize("base", ["cosine", "linear"])
def test_interpolation_goes_from_one_shift_to_the_other(base, x64):
    schedule, t = SCHEDULES[base](), np.arange(1, 1001) / 1000
    low, high = (logsnr(COMPOSED["shifted"](schedule, 512, reference), t) for reference in (32, 256))
    interpolated = COMPOSED["interpolated"](schedule, resolution=512, low=32, high=256)
    np.testing.assert_allclose(logsnr(interpolated, t), (1 - t) * low + t * high, atol=1e-9)


@pytest.mark.parametrize("hidden", [0, 64])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_learned_schedule_falls_from_end_to_end_whatever_its_parameters(hidden, seed):
    learned = LEARNED["monotone"](-6.0, 11.0, hidden)
    leaves, tree = jax.tree.flatten(learned.init(jax.random.key(seed)))
    started = learned.schedule(jax.tree.unflatten(tree, leaves))
    np.testing.assert_allclose(logsnr(started, jnp.array([0.0, 1.0])), [11, -6], atol=1e-5)
    moved = [leaf + jax.random.normal(jax.random.key(i), leaf.shape) for i, leaf in enumerate(leaves)]
    checked(learned.schedule(jax.tree.unflatten(tree, moved)))
    if not hidden:
        t = jnp.linspace(0, 1, 11)
        np.testing.assert_allclose(logsnr(started, t), 11 - 17 * t, atol=1e-5)


def test_every_parameter_of_a_learned_schedule_has_a_gradient():
    learned = LEARNED["monotone"](hidden=16)
    gradient = jax.grad(lambda params: learned.schedule(params).level(jnp.float32(0.3)).logsnr)
    slopes = gradient(learned.init(jax.random.key(0)))
    assert all(np.all(np.isfinite(slope)) and np.all(slope != 0) for slope in jax.tree.leaves(slopes))


def line(logsnr_at):
    return Schedule(lambda t: variance_preserving(logsnr_at(jnp.asarray(t))), lambda logsnr: logsnr)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: SCHEDULES["linear"](steps=1), "steps: got 1"),
        (lambda: SCHEDULES["linear"](steps=10.5), "steps: got 10.5"),
        (lambda: SCHEDULES["linear"](steps=10), "betas: .* to 2; .* inside"),
        (lambda: from_betas([0.1, 0.0]), "betas: .* from 0 "),
        (lambda: from_betas([]), "betas: got shape"),
        (lambda: SCHEDULES["cosine"](5.0, -5.0), "logsnr_min: got 5.0 with logsnr_max -5.0"),
        (lambda: SCHEDULES["cosine"](-np.inf), "logsnr_min: got -inf"),
        (lambda: SCHEDULES["sigmoid"](3.0, -3.0), "start: got 3.0 with end -3.0"),
        (lambda: SCHEDULES["sigmoid"](tau=0.0), "tau 0.0; give start < end and tau > 0"),
        (lambda: SCHEDULES["laplace"](scale=-1.0), "scale: got -1.0"),
        (lambda: SCHEDULES["vp"](beta_min=30.0), "beta_min: got 30.0"),
        (lambda: SCHEDULES["sub_vp"](first=0.0), "first 0.0; give"),
        (lambda: SCHEDULES["ve"](sigma_min=0.0), "sigma_min: got 0.0"),
        (lambda: SCHEDULES["edm"](sigma_max=np.inf), "sigma_max inf"),
        (lambda: SCHEDULES["flow"](shift=0.0), "shift: got 0.0"),
        (lambda: LEARNED["monotone"](5.0, -5.0), "logsnr_min: got 5.0"),
        (lambda: COMPOSED["shifted"](SCHEDULES["cosine"](), 0), "resolution: got 0"),
        (lambda: COMPOSED["interpolated"](SCHEDULES["cosine"](), 256, 4, 4096), "logsnr goes .* it must fall strictly"),
        (lambda: checked(line(lambda t: 10 * jnp.cos(6 * t))), r"from -?[\d.]+ at t = 0.52.* must fall strictly"),
        (lambda: checked(line(jnp.zeros_like)), "from 0 at t = 0.001 to 0 at t = 0.002; it must fall strictly"),
        (
            lambda: checked(line(lambda t: jnp.where(t < 0.5, -t, jnp.nan))),
            "at t = 0.5 the level is no number",
        ),
        (
            lambda: checked(Schedule(lambda t: NoiseLevel(jnp.cos(2 * t), jnp.sin(2 * t)), None)),
            "at t = 0.786 the level is no number or negative",
        ),
    ],
)
def test_impossible_schedules_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("base", ["sub_vp", "ve", "edm", "flow"])
@pytest.mark.parametrize("name", COMPOSED)
def test_a_shift_needs_a_base_that_preserves_variance(name, base):
    with pytest.raises(ValueError, match=rf"{name}: its base must have alpha\^2 \+ sigma\^2 = 1"):
        COMPOSED[name](SCHEDULES[base]())
