"""On a Gaussian each step is affine: held to the algorithm's recursion, written in numpy from alpha-bar."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import affine, gaussian, moments

from diffusion.samplers import SAMPLERS
from diffusion.schedules import SCHEDULES, cosine, linear
from diffusion.times import GRIDS, trailing

MEAN, VARIANCE = 0.3, 0.25


def alpha_bar(name, times):
    """A at each time of a grid, 1 at t = 0."""
    k, i = np.round(times * 1000).astype(int), np.arange(1000)
    if name == "cosine":
        start, end = np.arctan(np.exp(-7.5)), np.arctan(np.exp(7.5))
        return np.where(times > 0, np.cos(start + times * (end - start)) ** 2, 1)
    if name == "linear":
        beta = np.linspace(1e-4, 0.02, 1000)
    else:
        f = np.cos((np.append(i, 1000) / 1000 + 0.008) / 1.008 * np.pi / 2) ** 2
        beta = np.minimum(1 - f[1:] / f[:-1], 0.999)
    return np.append(1, np.cumprod(1 - beta))[k]


def ddpm_recursion(bars, exponent):
    """x -> c1 x0 + c2 x + sqrt(b~^(1 - exponent) b^exponent) z, betas of the strided chain."""
    for now, after in zip(bars[:-1], bars[1:]):
        beta = 1 - now / after
        c1 = beta * np.sqrt(after) / (1 - now)
        c2 = (1 - after) * np.sqrt(1 - beta) / (1 - now)
        small = beta * (1 - after) / (1 - now)
        gain = np.sqrt(now) * VARIANCE / (now * VARIANCE + 1 - now)
        offset = MEAN * (1 - np.sqrt(now) * gain)
        yield c1 * gain + c2, c1 * offset, np.sqrt(small ** (1 - exponent) * beta**exponent) * (after < 1)


def ddim_recursion(bars, eta):
    """x -> sqrt(A') x0 + sqrt(1 - A' - sigma^2) eps + sigma z."""
    for now, after in zip(bars[:-1], bars[1:]):
        sigma = eta * np.sqrt((1 - after) / (1 - now)) * np.sqrt(1 - now / after)
        on_eps = np.sqrt(1 - after - sigma**2)
        gain = np.sqrt(now) * VARIANCE / (now * VARIANCE + 1 - now)
        offset = MEAN * (1 - np.sqrt(now) * gain)
        a = np.sqrt(after) * gain + on_eps * (1 - np.sqrt(now) * gain) / np.sqrt(1 - now)
        yield a, (np.sqrt(after) - on_eps * np.sqrt(now) / np.sqrt(1 - now)) * offset, sigma


CASES = {
    "small": ("ancestral", {"variance": "small"}, lambda bars: ddpm_recursion(bars, 0.0)),
    "large": ("ancestral", {"variance": "large"}, lambda bars: ddpm_recursion(bars, 1.0)),
    "learned": ("ancestral", {"variance": "learned"}, lambda bars: ddpm_recursion(bars, 0.4)),
    "interpolated": (
        "ancestral",
        {"variance": "interpolated", "exponent": 0.3},
        lambda bars: ddpm_recursion(bars, 0.3),
    ),
    "ddim 0": ("ddim", {"eta": 0.0}, lambda bars: ddim_recursion(bars, 0.0)),
    "ddim .4": ("ddim", {"eta": 0.4}, lambda bars: ddim_recursion(bars, 0.4)),
    "ddim 1": ("ddim", {"eta": 1.0}, lambda bars: ddim_recursion(bars, 1.0)),
}


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_moments_are_the_algorithms_own_at_any_number_of_steps(case, schedule_name, x64):
    name, settings, recursion = CASES[case]
    schedule = SCHEDULES[schedule_name]()
    sampler, denoise = SAMPLERS[name](schedule, **settings), gaussian(schedule, MEAN, VARIANCE, frac=0.4)
    grids = [trailing(schedule, n) for n in (1, 10, 250)]
    if schedule.steps:
        grids += [GRIDS["ddim_uniform"](schedule, 10), GRIDS["ddim_quadratic"](schedule, 50)]
    for times, coefficients in zip(grids, affine(sampler, denoise, *grids), strict=True):
        actual = moments(coefficients, 0.1, 0.9)
        expected = moments(zip(*recursion(alpha_bar(schedule_name, times)), strict=True), 0.1, 0.9)
        np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "case, published",
    [
        ("ddim 0", [0.2485, 0.2441, 0.2222, 0.1369]),
        ("ddim 1", [0.2461, 0.2360, 0.1972, 0.1112]),
        ("small", [0.2461, 0.2360, 0.1972, 0.1112]),
        ("large", [0.2508, 0.2529, 0.2619, 0.2439]),
    ],
)
def test_variances_on_the_linear_table_are_the_published(case, published, x64):
    name, settings, _ = CASES[case]
    schedule = linear()
    sampler, start = SAMPLERS[name](schedule, **settings), float(schedule.level(1.0).sigma) ** 2
    grids = [trailing(schedule, steps) for steps in (1000, 250, 50, 10)]
    variances = [moments(each, 0.0, start)[-1][1] for each in affine(sampler, gaussian(schedule), *grids)]
    assert variances == pytest.approx(published, abs=5.1e-5)


@pytest.mark.parametrize("case", CASES)
def test_variance_converges_to_the_datas_with_the_first_order(case, x64):
    """Between fixed end levels, where the first and last jumps do not depend on the number of steps."""
    name, settings, _ = CASES[case]
    schedule, steps = cosine(), np.array([80, 160, 320, 640])
    sampler, denoise = SAMPLERS[name](schedule, **settings), gaussian(schedule, frac=0.4)
    levels = schedule.level(0.98), schedule.level(0.02)
    start, end = (float(level.alpha**2 * VARIANCE + level.sigma**2) for level in levels)
    grids = [np.linspace(0.98, 0.02, n + 1) for n in steps]
    errors = [abs(moments(each, 0.0, start)[-1][1] - end) for each in affine(sampler, denoise, *grids)]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.06) and errors[-1] < 0.01


def one_step(name, settings, seeds, t, s, schedule):
    sampler, keys = SAMPLERS[name](schedule, **settings), jax.vmap(jax.random.key)(jnp.array(seeds))
    x = jax.random.normal(jax.random.key(9), (2, 4, 4, 3))
    denoise = gaussian(schedule, MEAN, VARIANCE, frac=0.4)
    return sampler.step(keys, denoise, x, sampler.init(x), jnp.float32(t), jnp.float32(s))[0], denoise(x, t).x0


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_the_last_step_is_the_x0_prediction_whatever_the_key(case, schedule_name):
    name, settings, _ = CASES[case]
    for t in (0.001, 0.5, 1.0):
        first, x0 = one_step(name, settings, [0, 1], t, 0.0, SCHEDULES[schedule_name]())
        other, _ = one_step(name, settings, [2, 3], t, 0.0, SCHEDULES[schedule_name]())
        np.testing.assert_array_equal(first, x0)
        np.testing.assert_array_equal(other, x0)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("t, s", [(1.0, 0.999), (1.0, 0.5), (0.5, 0.4), (0.3, 0.001)])
def test_ddim_at_eta_one_is_the_small_ancestral_step(schedule_name, t, s):
    schedule = SCHEDULES[schedule_name]()
    ddim, _ = one_step("ddim", {"eta": 1.0}, [0, 1], t, s, schedule)
    ancestral, _ = one_step("ancestral", {}, [0, 1], t, s, schedule)
    np.testing.assert_allclose(ddim, ancestral, atol=1e-5)


def test_ddim_at_eta_zero_is_deterministic():
    first, _ = one_step("ddim", {}, [0, 1], 0.5, 0.4, linear())
    other, _ = one_step("ddim", {}, [2, 3], 0.5, 0.4, linear())
    np.testing.assert_array_equal(first, other)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="eta: got 1.5; give 0"):
        SAMPLERS["ddim"](linear(), eta=1.5)
    with pytest.raises(ValueError, match="variance: got 'medium'; choose one of small, large, learned"):
        SAMPLERS["ancestral"](linear(), variance="medium")
    sampler, x = SAMPLERS["ancestral"](linear(), variance="learned"), jnp.zeros((1, 1, 1, 1))
    with pytest.raises(ValueError, match="'learned' needs a network with 2c output channels"):
        sampler.step(None, gaussian(linear()), x, (), 0.5, 0.4)
