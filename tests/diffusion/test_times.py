import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.schedules import SCHEDULES, cosine, linear
from diffusion.times import GRIDS, TIMES, ddim_quadratic, ddim_uniform, trailing


def keys(n, step=0):
    return jax.vmap(jax.random.key)(jnp.arange(n) + 10000 * step)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("draw", TIMES)
def test_training_times_cover_the_noisy_levels_evenly(draw, name):
    schedule = SCHEDULES[name]()
    t = np.asarray(jax.jit(lambda keys: TIMES[draw](keys, schedule))(keys(20000)))
    assert t.shape == (20000, 1, 1, 1) and t.min() > 0 and t.max() <= 1
    counts = np.histogram(t, bins=10, range=(1e-4, 1 + 1e-4))[0]
    assert np.all(abs(counts - 2000) < 200)
    if schedule.steps:
        k = t.ravel() * schedule.steps
        np.testing.assert_allclose(k, np.round(k), rtol=1e-6)
        assert set(np.round(k).astype(int)) == set(range(1, schedule.steps + 1))


def test_an_example_draws_its_time_from_its_own_key():
    schedule = linear()
    whole = TIMES["uniform"](keys(8), schedule)
    np.testing.assert_array_equal(TIMES["uniform"](keys(8)[3:5], schedule), whole[3:5])
    assert np.all(TIMES["uniform"](keys(8, step=1), schedule) != whole)


def test_stratified_times_fall_one_in_each_part():
    t = np.sort(np.asarray(TIMES["stratified"](keys(64), cosine())).ravel())
    assert np.all((np.arange(64) / 64 <= t) & (t <= np.arange(1, 65) / 64))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 7, 30, 250, 999, 1000])
def test_trailing_runs_strictly_from_all_noise_to_data(name, steps):
    times = trailing(SCHEDULES[name](), steps)
    assert times.shape == (steps + 1,) and times[0] == 1 and times[-1] == 0
    assert np.all(np.diff(times) < 0)
    levels = times * 1000
    assert not SCHEDULES[name]().steps or np.all(abs(levels - np.round(levels)) < 1e-9)


def test_grids_of_the_papers_are_the_published_lists():
    indices = lambda grid, steps: list(np.round(grid(linear(), steps)[-2::-1] * 1000 - 1))  # noqa: E731
    assert indices(ddim_uniform, 10) == list(range(0, 1000, 100))
    assert indices(ddim_quadratic, 10) == [0, 9, 39, 88, 158, 246, 355, 483, 632, 800]
    assert indices(trailing, 10) == list(range(99, 1000, 100))
    assert all(GRIDS[name](linear(), 10)[-1] == 0 for name in GRIDS)


@pytest.mark.parametrize("steps", [10, 100, 1000])
def test_grids_of_the_papers_never_rise(steps):
    for grid in (ddim_uniform, ddim_quadratic):
        times = grid(linear(), steps)
        assert len(times) == steps + 1 and np.all(np.diff(times) <= 0)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize("steps", [0, 1001, 2.5])
def test_a_table_gives_no_more_steps_than_levels(name, steps):
    with pytest.raises(ValueError, match=f"steps: got {steps}; this schedule takes 1 to 1000"):
        GRIDS[name](linear(), steps)


def test_grids_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="ddim_uniform takes a divisor of 1000"):
        ddim_uniform(linear(), 30)
    for grid in ("ddim_uniform", "ddim_quadratic"):
        with pytest.raises(ValueError, match=f"{grid} needs a discrete schedule"):
            GRIDS[grid](cosine(), 10)
