import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian

from diffusion.gaussian import NoiseLevel, corrupt
from diffusion.prediction import PARAMETERISATIONS, decode, denoiser, inputs, target
from diffusion.schedules import SCHEDULES, Schedule, cosine, linear, variance_preserving


def pair(n):
    return jax.random.normal(jax.random.key(0), (2, n, 4, 4, 3))


def assert_round_trip(parameterisation, level):
    x0, eps = pair(len(level.alpha))
    back = decode(parameterisation, target(parameterisation, x0, eps, level), corrupt(x0, eps, level), level)
    worst = jnp.maximum(1, jnp.maximum(level.alpha / level.sigma, level.sigma / level.alpha))
    bound = 40 * jnp.finfo(x0.dtype).eps * worst
    assert jnp.all(abs(back.x0 - x0) <= bound) and jnp.all(abs(back.eps - eps) <= bound)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_decode_inverts_target_over_logsnr(kind):
    logsnr = jnp.linspace(-18, 18, 40).reshape(-1, 1, 1, 1)
    assert_round_trip(PARAMETERISATIONS[kind](linear()), variance_preserving(logsnr))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_decode_inverts_target_over_schedules(kind, name):
    schedule = SCHEDULES[name]()
    t = jnp.linspace(0.001, 1, 40).reshape(-1, 1, 1, 1)
    assert_round_trip(PARAMETERISATIONS[kind](schedule), schedule.level(t))


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("t", [jnp.float32(0.4), jnp.full((5, 1, 1, 1), 0.4)])
def test_a_right_network_of_any_kind_is_the_oracle(kind, name, t):
    schedule = SCHEDULES[name]()
    oracle, parameterisation = gaussian(schedule, 0.1), PARAMETERISATIONS[kind](schedule)

    def network(x, noise_input, cond):
        assert noise_input.shape == (5,)
        guess = oracle(x, t)
        return target(parameterisation, guess.x0, guess.eps, schedule.level(t))

    x = pair(5)[0]
    guess = denoiser(network, {}, schedule, parameterisation)(x, t)
    np.testing.assert_allclose(guess.x0, oracle(x, t).x0, atol=1e-5)
    np.testing.assert_allclose(guess.eps, oracle(x, t).eps, atol=1e-5)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_a_table_feeds_each_level_its_index(steps):
    schedule = linear(steps)
    t = (jnp.arange(1, steps + 1) / steps).reshape(-1, 1, 1, 1)
    parameterisation = PARAMETERISATIONS["eps"](schedule)
    _, noise_input = inputs(parameterisation, jnp.zeros((steps, 1, 1, 1)), t, schedule.level(t))
    assert noise_input.dtype == jnp.float32
    np.testing.assert_array_equal(noise_input, np.arange(steps))


def test_a_continuous_schedule_feeds_a_thousand_times_its_time():
    schedule, t = cosine(), jnp.float32(0.25)
    _, noise_input = inputs(PARAMETERISATIONS["v"](schedule), jnp.zeros((3, 1, 1, 1)), t, schedule.level(t))
    np.testing.assert_array_equal(noise_input, [250, 250, 250])


def test_eps_is_refused_where_it_cannot_tell_x0_when_built():
    ends_at_noise = Schedule(lambda t: NoiseLevel(jnp.cos(t * jnp.pi / 2) ** 4, jnp.sin(t * jnp.pi / 2)), None)
    for build in (PARAMETERISATIONS["eps"], jax.jit(lambda: PARAMETERISATIONS["eps"](ends_at_noise).line)):
        with pytest.raises(ValueError, match="eps is singular at t = 1, where alpha = .*; choose v or x0"):
            build(*[ends_at_noise] * (build is PARAMETERISATIONS["eps"]))
    PARAMETERISATIONS["v"](ends_at_noise), PARAMETERISATIONS["x0"](ends_at_noise)


def test_twice_the_channels_are_a_learned_variance():
    schedule, x = linear(), pair(2)[0]
    network = lambda x, noise_input, cond: jnp.concatenate([0 * x, -jnp.ones_like(x)], -1)  # noqa: E731
    guess = denoiser(network, {}, schedule, PARAMETERISATIONS["eps"](schedule))(x, 0.5)
    assert guess.x0.shape == x.shape and jnp.all(guess.frac == 0)


def test_another_number_of_channels_is_refused():
    schedule = linear()
    network = lambda x, noise_input, cond: x[..., :2]  # noqa: E731
    with pytest.raises(ValueError, match="got 2 channels for images of 3; give 3, or 6"):
        denoiser(network, {}, schedule, PARAMETERISATIONS["eps"](schedule))(pair(2)[0], 0.5)
