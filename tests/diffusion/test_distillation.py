"""Students against closed forms: two steps in one, and one answer all along a path."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian, mixture

from diffusion import distillation
from diffusion.gaussian import NoiseLevel, Prediction
from diffusion.grids import GRIDS, trailing
from diffusion.prediction import PARAMETERISATIONS, decode
from diffusion.samplers import SAMPLERS
from diffusion.sampling import normal, sample, stream, trajectory
from diffusion.schedules import SCHEDULES, Schedule

MEAN, VARIANCE, SHAPE = 0.3, 0.25, (2, 3, 1)
EXPLODING = Schedule(lambda t: NoiseLevel(jnp.ones_like(t), t), lambda logsnr: jnp.exp(-logsnr / 2))


def keys(n):
    return jax.vmap(jax.random.key)(jnp.arange(n))


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
@pytest.mark.parametrize("interval", [(1.0, 0.75, 0.5), (0.5, 0.3, 0.1), (0.2, 0.1, 0.0)])
def test_the_target_of_a_gaussian_teacher_is_its_closed_form(x64, name, interval):
    """A DDIM step scales the offset from alpha m by (alpha alpha' V + sigma sigma') / (alpha^2 V + sigma^2)."""
    schedule = SCHEDULES[name]()
    x = np.asarray(normal(keys(4), SHAPE))
    t, middle, s = (jnp.full((4, 1, 1, 1), time) for time in interval)
    target = distillation.progressive_target(gaussian(schedule, MEAN, VARIANCE), schedule, x, t, middle, s)

    levels = [np.array(schedule.level(np.float64(time))) for time in interval]
    levels[2] = levels[2] if interval[2] else np.array([1.0, 0.0])
    scale = 1.0
    for (alpha, sigma), (alpha_s, sigma_s) in zip(levels[:2], levels[1:]):
        scale *= (alpha * alpha_s * VARIANCE + sigma * sigma_s) / (alpha**2 * VARIANCE + sigma**2)
    (alpha, sigma), (alpha_s, sigma_s) = levels[0], levels[2]
    slope = (scale - sigma_s / sigma) / (alpha_s - alpha * sigma_s / sigma)
    np.testing.assert_allclose(target.x0, MEAN + slope * (x - alpha * MEAN), rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(alpha * target.x0 + sigma * target.eps, x, rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "flow"])
def test_a_student_that_says_the_target_takes_two_steps_of_its_teacher_in_one(x64, name):
    schedule = SCHEDULES[name]()
    teacher = mixture(schedule, np.array([0.3, 0.7]), np.array([[-0.5], [0.8]]), 0.02)
    times = trailing(schedule, 16)

    def student(x, t):
        return distillation.progressive_target(teacher, schedule, x, *distillation.interval(jnp.asarray(times), t))

    x, ddim = normal(keys(3), SHAPE), SAMPLERS["ddim"](schedule)
    of_teacher = trajectory(keys(3), teacher, ddim, times, x)[::2]
    of_student = trajectory(keys(3), student, ddim, times[::2], x)
    np.testing.assert_allclose(of_student, of_teacher, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name, steps", [("linear", 4), ("cosine", 8), ("linear", 1)])
def test_a_time_is_moved_to_the_noisy_end_of_the_interval_that_it_lies_in(name, steps):
    schedule = SCHEDULES[name]()
    times = np.float32(trailing(schedule, 2 * steps))
    drawn = (np.arange(1000, dtype=np.float32) + 1).reshape(-1, 1, 1, 1) / 1000
    t, middle, s = (np.asarray(part) for part in distillation.interval(jnp.asarray(times), drawn))
    assert t.shape == drawn.shape and np.all((s < drawn) & (drawn <= t) & (s < middle) & (middle < t))
    assert set(t.flat) == set(trailing(schedule, steps)[:-1].astype(np.float32))  # the grid that the student walks
    counts = np.unique(t, return_counts=True)[1]
    assert np.all(abs(counts - 1000 / steps) <= 1)


@pytest.mark.parametrize("kind", ["v", "edm", "flow", "x0"])
def test_at_its_smallest_level_a_consistency_model_is_the_image_itself_whatever_its_network_says(kind):
    sigma_min, x = np.float32(0.002), normal(keys(2), SHAPE)
    parameterisation = PARAMETERISATIONS[kind](SCHEDULES["cosine"]())

    def says(out):
        def denoise(x, t):
            return decode(parameterisation, jnp.full_like(x, out), x, EXPLODING.level(t))

        return distillation.consistency(denoise, EXPLODING, sigma_min)

    for out in (-3.0, 0.0, 100.0):
        np.testing.assert_array_equal(says(out)(x, sigma_min), x)
        np.testing.assert_array_equal(says(out)(x, sigma_min / 2), x)
    assert not np.allclose(says(1.0)(x, 2 * sigma_min), says(2.0)(x, 2 * sigma_min), atol=1e-5)


def test_edms_network_has_the_papers_c_out_and_nearly_its_c_skip(x64):
    """Song et al. 2023, appendix C: c_skip = d^2 / ((r - e)^2 + d^2), c_out = d (r - e) / sqrt(r^2 + d^2)."""
    e, d, x = 0.002, 0.5, jnp.ones((1, 1, 1, 1))
    parameterisation = PARAMETERISATIONS["edm"](EXPLODING, sigma_data=d)
    for r in (0.002, 0.01, 0.2, 0.5, 3.0, 80.0):

        def f(x, out, r=r):
            def denoise(x, t):
                return decode(parameterisation, out, x, EXPLODING.level(t))

            return distillation.consistency(denoise, EXPLODING, e)(x, jnp.float64(r))

        skip, out = float(f(x, 0 * x).item()), float(f(0 * x, x).item())
        np.testing.assert_allclose(out, d * (r - e) / np.sqrt(r**2 + d**2), rtol=1e-9, atol=1e-15)
        assert abs(skip - d**2 / ((r - e) ** 2 + d**2)) < e / 2


def test_the_intervals_are_those_of_karras_grid_and_their_number_may_be_traced():
    schedule = SCHEDULES["edm"]()
    ends = jax.jit(lambda t, n: distillation.neighbours(schedule, t, n))
    drawn = jnp.linspace(0.001, 1, 500).reshape(-1, 1, 1, 1)
    for n in (5, 12):
        t, s = (np.asarray(end) for end in ends(drawn, n))
        grid = GRIDS["karras"](schedule, n + 1)[:-1]
        for end, expected in ((t, grid[:-1]), (s, grid[1:])):
            found = np.unique(end.round(4))
            np.testing.assert_allclose(found, np.sort(expected), atol=2e-4)
        inside = drawn >= grid[-1]
        assert np.all((s < t) & np.where(inside, (s <= drawn + 1e-4) & (drawn <= t + 1e-4), True))


def exact(schedule, sigma_min):
    """A denoiser whose consistency function is that of N(MEAN, VARIANCE): the ODE scales y - m with sqrt(V + r^2)."""

    def denoise(x, t):
        level = schedule.level(t)
        scale = jnp.sqrt((VARIANCE + sigma_min**2) / (VARIANCE + level.ratio**2))
        end, share = MEAN + scale * (x / level.alpha - MEAN), sigma_min / level.ratio
        x0 = (end - share * x / level.alpha) / (1 - share)
        return Prediction(x0, (x - level.alpha * x0) / level.sigma)

    return denoise


def test_an_exact_consistency_model_agrees_with_itself_the_better_the_closer_the_levels(x64):
    """Heun's step errs by the cube of its length, and nothing else separates the two ends."""
    schedule = SCHEDULES["cosine"](logsnr_min=-10.0, logsnr_max=13.0)
    f = distillation.consistency(exact(schedule, 0.002), schedule, 0.002)
    teacher, x, errors = gaussian(schedule, MEAN, VARIANCE), normal(keys(2), SHAPE), []
    for n in (40, 80, 160):
        t, s = distillation.neighbours(schedule, jnp.full((2, 1, 1, 1), 0.5), n)
        cleaner = distillation.heun_step(teacher, schedule, x, t, s)
        errors.append(float(distillation.pseudo_huber(f(x, t), f(cleaner, s)).max()))
        assert errors[-1] < 0.02
    exact_slope = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.all(exact_slope > 2), errors


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_sampler_is_algorithm_1_and_an_exact_model_keeps_the_datas_variance_in_any_number_of_steps(x64, steps):
    schedule, e = SCHEDULES["cosine"](logsnr_min=-10.0, logsnr_max=13.0), 0.002
    times = GRIDS["karras"](schedule, steps) if steps > 1 else np.array([1.0, 0.0])
    sampler, n = SAMPLERS["consistency"](schedule, sigma_min=e), 3
    alpha, sigma = (np.array(part) for part in schedule.level(times))
    x = np.asarray(normal(stream(keys(n), 0), SHAPE, float)) * sigma[0]
    drawn = sample(keys(n), exact(schedule, e), sampler, times, x)

    y, variance = x / alpha[0], (sigma[0] / alpha[0]) ** 2 + VARIANCE
    for k in range(steps):
        r, clean = sigma[k] / alpha[k], sigma[k + 1] / alpha[k + 1] if k + 1 < steps else e
        shrink = np.sqrt((VARIANCE + e**2) / (VARIANCE + r**2))
        noise = np.asarray(normal(stream(keys(n), k + 1), SHAPE, float))
        y = MEAN + shrink * (y - MEAN) + np.sqrt(clean**2 - e**2) * noise
        variance = shrink**2 * variance + clean**2 - e**2
    np.testing.assert_allclose(drawn, y, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(variance, VARIANCE + e**2, rtol=1e-12)
    assert sampler.calls(times) == steps


def test_the_distance_is_the_squares_near_and_the_norms_far():
    c, zero = 0.00054 * 6**0.5, jnp.zeros((1, *SHAPE))
    far, near = zero + 2.0, zero + 1e-5
    np.testing.assert_allclose(distillation.pseudo_huber(far, zero), 2 * 6**0.5 - c, rtol=1e-4)
    np.testing.assert_allclose(distillation.pseudo_huber(near, zero), 6e-10 / (2 * c), rtol=0.05)
    gradient = jax.grad(lambda x: distillation.pseudo_huber(x, zero).sum())(zero)
    np.testing.assert_array_equal(gradient, zero)


def test_the_number_of_intervals_doubles_up_to_the_last():
    steps = jnp.array([0, 99, 100, 299, 300, 10**6])
    np.testing.assert_array_equal(distillation.doubled(steps, 10, 70, 100), [10, 10, 20, 40, 70, 70])
