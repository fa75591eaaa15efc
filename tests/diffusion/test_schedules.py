import math

import jax.numpy as jnp
import numpy as np
import pytest

from diffusion.schedules import SCHEDULES, clean_at_zero, cosine, cosine_discrete, from_betas, linear


def betas(name, steps):
    if name == "linear":
        return np.linspace(0.1 / steps, 20 / steps, steps)
    bar = lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2  # noqa: E731
    return np.array([min(1 - bar((i + 1) / steps) / bar(i / steps), 0.999) for i in range(steps)])


@pytest.mark.parametrize("steps", [1000, 4000])
@pytest.mark.parametrize("name", ["linear", "cosine_discrete"])
def test_table_is_the_float64_product_at_every_level(name, steps):
    bar = np.cumprod(1 - betas(name, steps))
    level = SCHEDULES[name](steps=steps).level(np.arange(1, steps + 1, dtype=np.float32) / np.float32(steps))
    np.testing.assert_allclose(level.alpha, np.sqrt(bar), rtol=1e-7)
    np.testing.assert_allclose(level.sigma, np.sqrt(1 - bar), rtol=1e-7)


def test_tables_have_the_published_values(x64):
    bar = linear().level(jnp.array([1, 2, 500, 1000]) / 1000).alpha ** 2
    np.testing.assert_allclose(
        bar, [0.9999, 0.9997800920720721, 0.07858724288177824, 4.035829765375676e-05], rtol=1e-12
    )
    logsnr = linear().level(jnp.array([0.001, 1.0])).logsnr
    np.testing.assert_allclose(logsnr, [9.2102403670, -10.1176731833], rtol=1e-10)
    bar = cosine_discrete().level(jnp.array([0.001, 0.5, 0.999, 1.0])).alpha ** 2
    np.testing.assert_allclose(1 - bar[0], 4.128422482196914e-05, rtol=1e-10)
    np.testing.assert_allclose(bar[jnp.array([1, 3])], [0.4938435904, 2.428767e-09], rtol=2e-7)
    np.testing.assert_allclose(1 - bar[3] / bar[2], 0.999, rtol=1e-12)
    bar = cosine_discrete(4000).level(jnp.array([1 / 4000, 1.0])).alpha ** 2
    np.testing.assert_allclose([1 - bar[0], bar[1]], [9.865818813681315e-06, 1.517980e-10], rtol=4e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_logsnr_falls_strictly_and_stays_finite_in_float32(name):
    level = SCHEDULES[name]().level(jnp.arange(1, 1001) / 1000)
    assert level.alpha.dtype == jnp.float32
    assert np.all(np.isfinite(level.logsnr)) and np.all(np.diff(level.logsnr) < 0)
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1, atol=3e-7)


@pytest.mark.parametrize("name", SCHEDULES)
def test_time_is_the_inverse_of_level(name):
    schedule, t = SCHEDULES[name](), np.arange(1, 1000) / 1000
    np.testing.assert_allclose(schedule.time(schedule.level(t).logsnr), t, atol=2e-5)


@pytest.mark.parametrize("limits", [(-15.0, 15.0), (-20.0, 20.0), (-4.0, 11.0)])
def test_cosine_runs_from_one_limit_to_the_other(limits):
    level = cosine(*limits).level(jnp.array([1.0, 0.5, 0.0]))
    middle = -2 * math.log(math.tan(sum(math.atan(math.exp(-limit / 2)) for limit in limits) / 2))
    np.testing.assert_allclose(level.logsnr, [limits[0], middle, limits[1]], atol=1e-5)
    np.testing.assert_allclose(level.alpha**2, 1 / (1 + np.exp(-np.array(level.logsnr))), rtol=1e-5)


@pytest.mark.parametrize("name", SCHEDULES)
def test_sampling_ends_in_the_literal_data_level(name):
    schedule = SCHEDULES[name]()
    clean = clean_at_zero(schedule)
    assert clean.level(jnp.float32(0)) == (1, 0)
    assert clean.level(jnp.float32(0.3)) == schedule.level(jnp.float32(0.3))
    if schedule.steps:
        assert schedule.level(jnp.float32(0)) == (1, 0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_levels_keep_the_dtype_of_their_time(name, x64):
    for dtype in (jnp.float32, jnp.float64):
        schedule = SCHEDULES[name]()
        level = schedule.level(jnp.ones((2, 1, 1, 1), dtype))
        assert level.alpha.dtype == level.sigma.dtype == schedule.time(level.logsnr).dtype == dtype
        assert level.alpha.shape == (2, 1, 1, 1)


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: linear(steps=1), "steps: got 1"),
        (lambda: linear(steps=10.5), "steps: got 10.5"),
        (lambda: linear(steps=10), "betas: .* to 2; .* inside"),
        (lambda: from_betas([0.1, 0.0]), "betas: .* from 0 "),
        (lambda: from_betas([]), "betas: got shape"),
        (lambda: cosine(5.0, -5.0), "logsnr_min: got 5.0 with logsnr_max -5.0"),
        (lambda: cosine(-np.inf), "logsnr_min: got -inf"),
    ],
)
def test_impossible_schedules_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
