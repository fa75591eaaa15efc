import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.grids import GRIDS, ddim_quadratic, ddim_uniform, given, karras, leading, logsnr, trailing, uniform
from diffusion.schedules import SCHEDULES, last_time

FROM_NOISE = ["trailing", "uniform", "quadratic", "karras", "logsnr"]
PAIRS = [(grid, name) for grid in FROM_NOISE for name in SCHEDULES if (grid, name) != ("karras", "flow")]
TABLES = ["leading", "ddim_uniform", "ddim_quadratic"]
linear, cosine, edm, flow = (SCHEDULES[name] for name in ("linear", "cosine", "edm", "flow"))


def indices(grid, steps, **settings):
    """The table's, ascending."""
    return list(np.round(grid(linear(), steps, **settings)[-2::-1] * 1000 - 1))


def refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()


@pytest.mark.parametrize("grid, name", PAIRS)
@pytest.mark.parametrize("steps", [1, 2, 250])
def test_a_grid_falls_strictly_from_all_noise_to_data(grid, name, steps):
    schedule = SCHEDULES[name]()
    times = GRIDS[grid](schedule, steps)
    assert times.shape == (steps + 1,) and times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times.astype(np.float32)) < 0)
    if schedule.steps:
        np.testing.assert_allclose(times * schedule.steps, np.round(times * schedule.steps), atol=1e-9)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("grid", ["uniform", "quadratic", "logsnr"])
def test_the_last_level_before_data_is_the_schedules(grid, name):
    schedule = SCHEDULES[name]()
    assert GRIDS[grid](schedule, 20)[-2] == pytest.approx(last_time(schedule), rel=5e-3)


@pytest.mark.parametrize("steps", [1, 30, 999, 1000])
@pytest.mark.parametrize("grid", ["trailing", "uniform", "quadratic", "karras", "logsnr", "leading"])
def test_all_levels_of_a_table_can_be_walked(grid, steps):
    levels = np.round(GRIDS[grid](linear(), steps) * 1000)
    assert len(set(levels)) == steps + 1
    if steps == 1000:
        np.testing.assert_array_equal(levels, np.arange(1000, -1, -1))


def test_grids_of_the_papers_are_the_published_lists():
    assert indices(ddim_uniform, 10) == list(range(0, 1000, 100))
    assert indices(ddim_quadratic, 10) == [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
    assert indices(trailing, 10) == list(range(99, 1000, 100))
    assert indices(leading, 10) == list(range(0, 1000, 100))
    assert indices(leading, 10, offset=1) == list(range(1, 1000, 100))
    assert indices(leading, 30) == list(range(0, 990, 33))
    assert indices(uniform, 10) == list(range(0, 1000, 111))


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_grids_of_the_papers_never_rise(steps):
    for grid in (ddim_uniform, ddim_quadratic):
        times = grid(linear(), steps)
        assert len(times) == steps + 1 and np.all(np.diff(times) <= 0) and times[-1] == 0


def test_karras_has_the_published_sigmas(x64):
    published = [80, 57.586, 40.786, 28.375, 19.352, 12.910, 8.4009, 5.3152, 3.2568, 1.9233, 1.0882, 0.58535]
    published += [0.29644, 0.13952, 0.059947, 0.022935, 0.0075280, 0.002]
    np.testing.assert_allclose(edm().level(karras(edm(), 18)[:-1]).sigma, published, rtol=5e-5)


@pytest.mark.parametrize("name", ["cosine", "vp", "sub_vp", "ve", "edm", "sigmoid", "laplace"])
def test_karras_and_logsnr_space_what_they_say(name, x64):
    schedule = SCHEDULES[name]()
    ratio = np.asarray(schedule.level(karras(schedule, 20, rho=5.0)[:-1]).ratio) ** (1 / 5)
    np.testing.assert_allclose(np.diff(ratio), np.mean(np.diff(ratio)), rtol=1e-5)
    gaps = np.diff(schedule.level(logsnr(schedule, 20)[:-1]).logsnr)
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-5)


def test_karras_takes_the_limits_given(x64):
    ratio = cosine().level(karras(cosine(), 9, sigma_min=0.01, sigma_max=40.0)[:-1]).ratio
    np.testing.assert_allclose([ratio[0], ratio[-1]], [40, 0.01], rtol=1e-9)


def test_logsnr_steps_from_pure_noise_first(x64):
    times = logsnr(flow(), 20)
    gaps = np.diff(flow().level(times[1:-1]).logsnr)
    assert times[0] == 1 and times[1] == pytest.approx(0.999)
    np.testing.assert_allclose(gaps, gaps.mean(), rtol=1e-6)


def test_a_given_grid_is_kept(x64):
    times, sigmas = (1.0, 0.7, 0.2, 0.0), (80.0, 5.0, 0.3)
    np.testing.assert_array_equal(given(cosine(), 3, times=times), times)
    np.testing.assert_allclose(edm().level(given(edm(), 3, sigmas=sigmas)[:-1]).sigma, sigmas, rtol=1e-9)
    np.testing.assert_allclose(given(linear(), 3, times=(1.0, 0.50049, 0.0002, 0.0)), [1, 0.5, 0.001, 0], atol=1e-12)


@pytest.mark.parametrize("grid", GRIDS)
def test_grids_are_numbers_inside_a_compiled_function(grid):
    settings = {"times": (1.0, 0.6, 0.3, 0.1, 0.0)} if grid == "given" else {}
    jitted = jax.jit(lambda: jnp.asarray(GRIDS[grid](linear(), 4, **settings)))()
    np.testing.assert_allclose(jitted, GRIDS[grid](linear(), 4, **settings), rtol=1e-6)


@pytest.mark.parametrize("name", [name for name in GRIDS if name != "given"])
@pytest.mark.parametrize("steps", [0, 1001, 2.5])
def test_a_table_gives_no_more_steps_than_levels(name, steps):
    refused(lambda: GRIDS[name](linear(), steps), f"steps: got {steps}; this schedule takes 1 to 1000")


@pytest.mark.parametrize("name", TABLES)
def test_grids_of_a_table_refuse_a_continuous_schedule(name):
    refused(lambda: GRIDS[name](cosine(), 10), f"{name} needs a discrete schedule, and this one is continuous")


@pytest.mark.parametrize(
    "settings, words",
    [
        ({}, "given takes either times=.* or sigmas="),
        ({"times": (1.0, 0.0), "sigmas": (80.0,)}, "given takes either times=.* or sigmas="),
        ({"times": (1.0, 0.5)}, "end at t = 0.5; they must end at data, t = 0"),
        ({"times": (1.0, 0.5, 0.5, 0.0)}, "must fall strictly, from 1 at most to 0"),
        ({"times": (1.5, 0.5, 0.0)}, "must fall strictly, from 1 at most to 0"),
        ({"times": (1.0, float("nan"), 0.0)}, "must fall strictly"),
        ({"sigmas": (0.1, 20.0)}, "must fall strictly"),
        ({"sigmas": (99.0, 90.0, 1.0)}, "must fall strictly"),
        ({"times": (1.0, 0.5, 0.2, 0.0)}, "steps: got 2, and the times given make 3 steps"),
    ],
)
def test_a_given_grid_that_cannot_be_walked_is_refused(settings, words):
    refused(lambda: given(edm(), 2, **settings), words)


def test_other_grids_that_cannot_be_are_refused():
    refused(lambda: ddim_uniform(linear(), 30), "ddim_uniform takes a divisor of 1000")
    refused(lambda: karras(flow(), 10), "sigma_max: got inf with sigma_min .*; karras needs 0 < min < max < inf")
    refused(lambda: karras(linear(zero_terminal=True), 10), "sigma_max: got inf")
    refused(lambda: karras(edm(), 10, sigma_min=100.0), "sigma_max: got 80 with sigma_min 100")
    refused(lambda: leading(linear(), 10, offset=100), "offset: got 100; with 10 steps of 1000 levels give 0 to 99")
    refused(lambda: leading(linear(), 10, offset=-1), "offset: got -1")
