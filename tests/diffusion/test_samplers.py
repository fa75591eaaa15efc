"""Each sampler against its published recursion, written in numpy float64 in the papers' variables."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import affine, gaussian, mixture, moments

from benchmarks.recursions import RECURSIONS
from diffusion.grids import GRIDS, trailing
from diffusion.oracles import predict
from diffusion.samplers import SAMPLERS
from diffusion.samplers.ddim import invert
from diffusion.samplers.exponential import phi
from diffusion.sampling import normal, prior, sample, stream, trajectory
from diffusion.schedules import SCHEDULES

MEAN, VARIANCE, SHAPE = 0.3, 0.25, (2, 3, 1)

# case: (sampler, its settings, the recursion's where they have other names)
CASES = {
    "small": ("ancestral", {"variance": "small"}, {"frac": 0.0}),
    "large": ("ancestral", {"variance": "large"}, {"frac": 1.0}),
    "learned": ("ancestral", {"variance": "learned"}, {"frac": 0.4}),
    "interpolated": ("ancestral", {"variance": "interpolated", "exponent": 0.3}, {"frac": 0.3}),
    "ddim 0": ("ddim", {"eta": 0.0}, None),
    "ddim .4": ("ddim", {"eta": 0.4}, None),
    "ddim 1": ("ddim", {"eta": 1.0}, None),
    "addim": ("addim", {"eta": 0.1, "variance": 0.5}, None),
    "euler": ("euler", {}, None),
    "euler ancestral": ("euler_ancestral", {"eta": 0.7}, None),
    "heun": ("heun", {}, None),
    "2m": ("dpmpp_2m", {"eta": 0.0}, None),
    "2m sde": ("dpmpp_2m", {"eta": 1.0}, None),
    "3m": ("dpmpp_3m_sde", {"eta": 0.0}, None),
    "3m sde": ("dpmpp_3m_sde", {"eta": 1.0}, None),
    "unipc 1": ("unipc", {"order": 1}, None),
    "unipc 2": ("unipc", {"order": 2}, None),
    "unipc 3": ("unipc", {"order": 3}, None),
}
ORDER = {"heun": 2, "2m": 2, "2m sde": 2, "3m": 3, "3m sde": 2, "unipc 1": 2, "unipc 2": 3, "unipc 3": 4}
NOT_AFFINE = {"addim"}


def keys(n):
    return jax.vmap(jax.random.key)(jnp.arange(n))


def x0_of(x, alpha, sigma):
    """E[x0 | x] of N(MEAN, VARIANCE), by Bayes' formula."""
    return MEAN + alpha * VARIANCE / (alpha**2 * VARIANCE + sigma**2) * (x - alpha * MEAN)


def levels(schedule, times):
    """alpha, sigma of the grid in float64, data's at the end."""
    alpha, sigma = (np.array(part) for part in schedule.level(times))
    alpha[-1], sigma[-1] = 1, 0
    return alpha, sigma


@functools.cache
def noises(n, steps, key=lambda keys: keys):
    return [np.asarray(normal(key(stream(keys(n), k + 1)), SHAPE, float)) for k in range(steps)]


def walk(sampler, schedule):
    """(times, x) -> the trajectory, compiled once for each length of the grid."""
    denoise = gaussian(schedule, MEAN, VARIANCE, frac=0.4)
    return jax.jit(lambda times, x: trajectory(keys(len(x)), denoise, sampler, times, x))


def assert_same_path(actual, expected):
    np.testing.assert_allclose(actual[1:], np.stack(list(expected)), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("case", CASES)
def test_every_step_is_the_published_recursion(case, schedule_name, x64):
    name, settings, other = CASES[case]
    schedule = SCHEDULES[schedule_name]()
    path_of = walk(SAMPLERS[name](schedule, **settings), schedule)
    for grid, steps in (("trailing", 1), ("trailing", 10), ("logsnr", 25)):
        times = GRIDS[grid](schedule, steps)
        if name == "unipc" and schedule_name == "flow":  # its authors' formulas have no value at alpha = 0
            times = np.append(times[:-1] * 0.999, 0)
        x = np.asarray(prior(keys(3), SHAPE, schedule), np.float64)
        path = RECURSIONS[name](*levels(schedule, times), x, noises(3, steps), x0_of, **(other or settings))
        padded = np.append(times, np.zeros(25 - steps))  # one length, one program: what follows data is not looked at
        assert_same_path(path_of(padded, x)[: steps + 1], path)


@pytest.mark.parametrize(
    "schedule_name, alpha_of",
    [
        ("edm", lambda r: 1.0),
        ("cosine", lambda r: 1 / np.sqrt(1 + r**2)),
        ("flow", lambda r: 1 / (1 + r)),
        ("sub_vp", lambda r: 2 / (r + np.sqrt(4 + r**2))),
    ],
)
@pytest.mark.parametrize("name", ["heun", "euler"])
def test_churn_is_the_papers(name, schedule_name, alpha_of, x64):
    schedule, steps = SCHEDULES[schedule_name](), 12
    settings = {"churn": 3.0, "churn_min": 0.05, "churn_max": 5.0, "noise": 1.007}
    times = GRIDS["logsnr"](schedule, steps)
    x = np.asarray(prior(keys(3), SHAPE, schedule), np.float64)
    path = RECURSIONS[name](*levels(schedule, times), x, noises(3, steps), x0_of, alpha_of=alpha_of, **settings)
    assert_same_path(walk(SAMPLERS[name](schedule, **settings), schedule)(times, x), path)


def test_churn_on_imagenet_64_is_191_steps_of_the_published_gamma():
    schedule = SCHEDULES["edm"]()
    sampler = SAMPLERS["heun"](schedule, churn=40.0, churn_min=0.05, churn_max=50.0, noise=1.003)
    assert sampler.init(jnp.zeros(()), 256) == 0.15625
    ratio = schedule.level(GRIDS["karras"](schedule, 256)[:-1]).ratio
    assert jnp.sum((ratio >= 0.05) & (ratio <= 50)) == 191


@pytest.mark.parametrize("t", [0.3, 1.0])
def test_churn_never_leaves_a_tables_levels(t):
    schedule = SCHEDULES["linear"]()
    seen = []

    def denoise(x, t):
        seen.append(float(t))
        return predict(x, x, schedule.level(t))

    sampler = SAMPLERS["euler"](schedule, churn=1e3)
    with jax.disable_jit():
        ends = jnp.float32(t), jnp.float32(t / 2)
        sampler.step(keys(1), denoise, jnp.ones((1, *SHAPE)), sampler.init(None, 10), *ends)
    k = seen[0] * 1000
    assert k == pytest.approx(round(k), abs=1e-3) and t <= seen[0] <= 1


@pytest.mark.parametrize("schedule_name", ["linear", "edm", "flow"])
def test_predictor_corrector_is_the_papers_with_norms_of_each_example(schedule_name, x64):
    schedule, steps = SCHEDULES[schedule_name](), 10
    times = GRIDS["logsnr"](schedule, steps)
    x = np.asarray(prior(keys(3), SHAPE, schedule), np.float64)
    langevin = list(zip(*(noises(3, steps, lambda keys, j=j: stream(keys, j)) for j in range(2)), strict=True))
    path = RECURSIONS["predictor_corrector"](
        *levels(schedule, times), x, noises(3, steps), x0_of, snr=0.1, langevin=langevin
    )
    sampler = SAMPLERS["predictor_corrector"](schedule, snr=0.1, corrections=2)
    assert_same_path(walk(sampler, schedule)(times, x), path)


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
    schedule = SCHEDULES["linear"]()
    sampler, start = SAMPLERS[name](schedule, **settings), float(schedule.level(1.0).sigma) ** 2
    grids = [trailing(schedule, steps) for steps in (1000, 250, 50, 10)]
    variances = [moments(each, 0.0, start)[-1][1] for each in affine(sampler, gaussian(schedule), *grids)]
    assert variances == pytest.approx(published, abs=5.1e-5)


def end_variance(case, schedule, times):
    """Of the last level before data, by the recursion on coefficients: (1, x at the start, z_0, z_1, ..)."""
    name, settings, other = CASES[case]
    alpha, sigma = levels(schedule, np.append(times, 0.0))
    unit = np.eye(len(times) + 2)

    def affine_x0(x, alpha, sigma):
        return x0_of(x, alpha, sigma) - (1 - unit[0]) * x0_of(0, alpha, sigma)

    path = list(RECURSIONS[name](alpha, sigma, unit[1], unit[2:], affine_x0, **(other or settings)))
    coefficients = path[-2]
    start = alpha[0] ** 2 * VARIANCE + sigma[0] ** 2
    return coefficients[1] ** 2 * start + np.sum(coefficients[2:] ** 2)


@pytest.mark.parametrize("schedule_name", ["cosine", "edm", "flow"])
@pytest.mark.parametrize("case", [case for case in CASES if case not in NOT_AFFINE])
def test_variance_converges_to_the_datas_with_the_stated_order(case, schedule_name, x64):
    """Between fixed end levels, where the first and last jumps do not depend on the number of steps.

    The start is noisy enough for x0 to stand still in it: a multistep method's first steps are of lower order.
    """
    schedule, steps = SCHEDULES[schedule_name](), np.array([80, 160, 320, 640])
    order = ORDER.get(case, 1)
    ends = schedule.time(jnp.array([-8.0, 4.0]))
    end = schedule.level(ends[1])
    grids = [schedule.time(jnp.linspace(-8, 4, n + 1)) for n in steps]
    true = float(end.alpha**2 * VARIANCE + end.sigma**2)
    errors = [abs(end_variance(case, schedule, np.asarray(grid)) - true) for grid in grids]
    slope = np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(-order, abs=0.06 if order == 1 else 0.2)


def one_step(name, settings, seeds, t, s, schedule):
    sampler, step_keys = SAMPLERS[name](schedule, **settings), jax.vmap(jax.random.key)(jnp.array(seeds))
    x = jax.random.normal(jax.random.key(9), (2, 4, 4, 3))
    denoise = gaussian(schedule, MEAN, VARIANCE, frac=0.4)
    return sampler.step(step_keys, denoise, x, sampler.init(x, 1), jnp.float32(t), jnp.float32(s))[0], denoise(x, t).x0


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("case", [*CASES, "predictor_corrector"])
def test_the_last_step_is_the_x0_prediction_whatever_the_key(case, schedule_name):
    (name, settings, _), schedule = CASES.get(case, (case, {}, None)), SCHEDULES[schedule_name]()
    for t in (0.001, 0.5, 1.0):
        first, x0 = one_step(name, settings, [0, 1], t, 0.0, schedule)
        other, _ = one_step(name, settings, [2, 3], t, 0.0, schedule)
        np.testing.assert_array_equal(first, x0)
        np.testing.assert_array_equal(other, x0)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("t, s", [(1.0, 0.999), (1.0, 0.5), (0.5, 0.4), (0.3, 0.001)])
def test_ddim_at_eta_one_is_the_small_ancestral_step(schedule_name, t, s):
    schedule = SCHEDULES[schedule_name]()
    ddim, _ = one_step("ddim", {"eta": 1.0}, [0, 1], t, s, schedule)
    small, _ = one_step("ancestral", {}, [0, 1], t, s, schedule)
    np.testing.assert_allclose(ddim, small, atol=1e-5)


@pytest.mark.parametrize("case", ["ddim 0", "addim", "euler", "heun", "2m", "3m", "unipc 2"])
def test_samplers_of_the_ode_are_deterministic(case):
    name, settings, _ = CASES[case]
    first, _ = one_step(name, settings, [0, 1], 0.5, 0.4, SCHEDULES["linear"]())
    other, _ = one_step(name, settings, [2, 3], 0.5, 0.4, SCHEDULES["linear"]())
    np.testing.assert_array_equal(first, other)


def test_a_grid_that_starts_late_has_fewer_calls_to_save():
    flow, times = SCHEDULES["flow"](), np.array([0.9, 0.5, 0.0])
    assert SAMPLERS["heun"](flow).calls(times) == 3 and SAMPLERS["heun"](flow).calls(np.append(1.0, times)) == 4


def test_flow_euler_is_eulers_method_in_time(x64):
    schedule = SCHEDULES["flow"]()
    x, t, s = np.ones((1, *SHAPE)), 0.6, 0.45
    x0 = x0_of(x, 1 - t, t)
    velocity = (x - (1 - t) * x0) / t - x0
    sampler = SAMPLERS["euler"](schedule)
    denoise = gaussian(schedule, MEAN, VARIANCE)
    actual, _ = sampler.step(keys(1), denoise, x, sampler.init(x, 10), jnp.float64(t), jnp.float64(s))
    np.testing.assert_allclose(actual, x + (s - t) * velocity, rtol=1e-12)


@pytest.mark.parametrize("grid", ["trailing", "logsnr"])
@pytest.mark.parametrize("case", [*CASES, "predictor_corrector"])
def test_calls_are_counted_truly(case, grid):
    name, settings, _ = CASES.get(case, (case, {"corrections": 2}, None))
    for schedule_name in ("edm", "flow"):
        schedule, called = SCHEDULES[schedule_name](), []
        oracle = gaussian(schedule, frac=0.4)
        sampler = SAMPLERS[name](schedule, **settings)

        def denoise(x, t, called=called, oracle=oracle):
            called.append(float(t))
            return oracle(x, t)

        for steps in (1, 2, 5):
            called.clear()
            times = GRIDS[grid](schedule, steps)
            with jax.disable_jit():
                sample(keys(1), denoise, sampler, times, jnp.ones((1, *SHAPE)))
            assert len(called) == sampler.calls(times) and min(called) > 0


@pytest.mark.parametrize("schedule_name", ["linear", "cosine", "edm", "flow"])
def test_inversion_leads_back_the_better_the_more_steps(schedule_name, x64):
    schedule = SCHEDULES[schedule_name]()
    denoise = mixture(schedule, [0.4, 0.6], [[-0.5], [0.5]], 0.04)
    images = jnp.linspace(-0.9, 0.9, 6).reshape(1, *SHAPE)
    errors = []
    for steps in (10, 40, 160):
        times = GRIDS["logsnr"](schedule, steps)
        noise = invert(denoise, schedule, times, images)
        back = sample(keys(1), denoise, SAMPLERS["ddim"](schedule), times, noise)
        errors.append(float(jnp.mean((back - images) ** 2)))
    assert errors[1] < errors[0] / 3 and errors[2] < errors[1] / 3 and errors[2] < 1e-3


def test_inversion_never_calls_the_network_on_data():
    schedule, called = SCHEDULES["linear"](), []

    def denoise(x, t):
        called.append(round(float(t), 3))
        return gaussian(schedule)(x, t)

    with jax.disable_jit():
        invert(denoise, schedule, trailing(schedule, 4), jnp.ones((1, *SHAPE)))
    assert called == [0.25, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_is_its_integral_at_every_step_length(k, x64):
    """phi_k(z) = integral over (0, 1) of exp((1 - u) z) u^(k - 1) / (k - 1)!."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    for z in (-1e-8, -1e-3, -0.5, -1.0, -1.5, -20.0):
        integral = np.sum(weights / 2 * np.exp((1 - u) * z) * u ** (k - 1)) / np.prod(np.arange(1, k))
        assert phi(k, jnp.float64(z)) == pytest.approx(integral, rel=1e-11)
        assert phi(k, jnp.float32(z)) == pytest.approx(integral, rel=1e-5)
    assert phi(k, jnp.float32(-80.0)) == pytest.approx(1 / 80 / np.prod(np.arange(1, k)), rel=0.1)


def test_settings_that_cannot_be_are_refused():
    linear = SCHEDULES["linear"]()
    with pytest.raises(ValueError, match="eta: got 1.5; give 0"):
        SAMPLERS["ddim"](linear, eta=1.5)
    with pytest.raises(ValueError, match="eta: got -1; give 0"):
        SAMPLERS["dpmpp_2m"](linear, eta=-1)
    with pytest.raises(ValueError, match="order: got 4; choose 1, 2 or 3"):
        SAMPLERS["unipc"](linear, order=4)
    for name, settings, words in (
        ("unipc", {"order": 2.0}, "order: got 2.0"),
        ("predictor_corrector", {"corrections": 1.5}, "corrections: got 1.5"),
        ("heun", {"churn": -1.0}, "churn: got -1.0; give 0 or more"),
        ("addim", {"variance": 0.0}, "variance: got 0.0; give a positive"),
        ("ancestral", {"exponent": 5.0}, "exponent: got 5.0; give 0 to 1"),
    ):
        with pytest.raises(ValueError, match=words):
            SAMPLERS[name](linear, **settings)
    with pytest.raises(ValueError, match="corrections: got 0; give 1"):
        SAMPLERS["predictor_corrector"](linear, corrections=0)
    with pytest.raises(ValueError, match="variance: got 'medium'; choose one of small, large, learned"):
        SAMPLERS["ancestral"](linear, variance="medium")
    sampler, x = SAMPLERS["ancestral"](linear, variance="learned"), jnp.zeros((1, 1, 1, 1))
    with pytest.raises(ValueError, match="'learned' needs a network with 2c output channels"):
        sampler.step(None, gaussian(linear), x, (), 0.5, 0.4)
    with pytest.raises(ValueError, match="the grid ends at t = 0.5; it must end at data"):
        sample(keys(1), gaussian(linear), SAMPLERS["ddim"](linear), np.array([1.0, 0.5]), x)
