import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian

from diffusion.gaussian import NoiseLevel, corrupt
from diffusion.prediction import PARAMETERISATIONS, decode, denoiser, inputs, range_input, target
from diffusion.schedules import COMPOSED, LEARNED, SCHEDULES, Schedule
from diffusion.schedules.base import variance_preserving

linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine"]
TO_NOISE = {"flow": SCHEDULES["flow"], "linear to noise": lambda: linear(zero_terminal=True)}
ALL = {**SCHEDULES, **TO_NOISE, "shifted": lambda: COMPOSED["shifted"](cosine(), 256)}
SINGULAR = {(kind, name) for kind in ("eps", "score") for name in TO_NOISE}
PAIRS = [(kind, name) for kind in PARAMETERISATIONS for name in ALL if (kind, name) not in SINGULAR]


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


@pytest.mark.parametrize("kind, name", PAIRS)
def test_decode_inverts_target_over_schedules(kind, name):
    schedule = ALL[name]()
    t = jnp.linspace(0.001, 1, 40).reshape(-1, 1, 1, 1)
    assert_round_trip(PARAMETERISATIONS[kind](schedule), schedule.level(t))


@pytest.mark.parametrize("kind, name", PAIRS)
def test_a_right_network_of_any_kind_is_the_oracle(kind, name):
    schedule = ALL[name]()
    oracle, parameterisation = gaussian(schedule, 0.1), PARAMETERISATIONS[kind](schedule)
    x = pair(5)[0]

    def check(t):
        def network(x, noise_input, cond):
            assert noise_input.shape == (5,)
            guess = oracle(image, t)
            return target(parameterisation, guess.x0, guess.eps, schedule.level(t))

        image = x
        return denoiser(network, {}, schedule, parameterisation)(x, t), oracle(x, t)

    for guess, expected in jax.jit(lambda *ts: list(map(check, ts)))(jnp.float32(0.4), jnp.full((5, 1, 1, 1), 0.4)):
        np.testing.assert_allclose(guess.x0, expected.x0, atol=1e-5)
        np.testing.assert_allclose(guess.eps, expected.eps, atol=1e-5)


@pytest.mark.parametrize(
    "kind, expected",
    [
        ("eps", lambda x0, eps, alpha, sigma: eps),
        ("x0", lambda x0, eps, alpha, sigma: x0),
        ("v", lambda x0, eps, alpha, sigma: alpha * eps - sigma * x0),
        ("flow", lambda x0, eps, alpha, sigma: eps - x0),
        ("score", lambda x0, eps, alpha, sigma: -(alpha * x0 + sigma * eps - alpha * x0) / sigma**2),
    ],
)
@pytest.mark.parametrize("name", ["linear", "sub_vp", "edm"])
def test_a_kind_is_its_papers(kind, expected, name, x64):
    level, (x0, eps) = SCHEDULES[name]().level(jnp.float64(0.6)), pair(2)
    actual = target(PARAMETERISATIONS[kind](SCHEDULES[name]()), x0, eps, level)
    np.testing.assert_allclose(actual, expected(x0, eps, *level), atol=1e-12)


@pytest.mark.parametrize("name", ["ve", "edm", "cosine", "flow"])
@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_is_its_table_1_of_x_over_alpha(name, sd, x64):
    """D(x; sigma) = c_skip x + c_out F(c_in x; c_noise), with x / alpha and sigma / alpha where alpha is not 1."""
    schedule, t, (x, out) = SCHEDULES[name](), jnp.float64(0.55), pair(3)
    fed = []

    def network(x, noise_input, cond):
        fed.extend([x, noise_input])
        return out

    guess = denoiser(network, {}, schedule, PARAMETERISATIONS["edm"](schedule, sd))(x, t)
    alpha, sigma = map(float, schedule.level(t))
    s = sigma / alpha
    c_skip, c_out = sd**2 / (s**2 + sd**2), s * sd / np.sqrt(s**2 + sd**2)
    c_in, c_noise = 1 / np.sqrt(s**2 + sd**2), np.log(s) / 4
    np.testing.assert_allclose(fed[0], c_in * x / alpha, rtol=1e-12)
    np.testing.assert_allclose(fed[1], [c_noise] * 3, rtol=1e-12)
    np.testing.assert_allclose(guess.x0, c_skip * x / alpha + c_out * out, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("sd", [0.5, 1.3])
def test_edm_feeds_and_asks_for_unit_variance(sd, x64):
    schedule = SCHEDULES["sub_vp"]()
    parameterisation = PARAMETERISATIONS["edm"](schedule, sd)
    for level in (schedule.level(jnp.float64(t)) for t in (0.01, 0.4, 1.0)):
        a, b = parameterisation.line(level)
        assert float((a * sd) ** 2 + b**2) == pytest.approx(1, abs=1e-12)
        variance = (level.alpha * sd) ** 2 + level.sigma**2
        assert float(parameterisation.scale_input(level) ** 2 * variance) == pytest.approx(1, abs=1e-12)


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


def test_a_learned_schedule_feeds_the_place_of_its_level():
    """Whatever the curve between its ends, so that it moves in t and not in what the network sees."""
    learned = LEARNED["monotone"](-6.0, 10.0, hidden=8)
    schedule = learned.schedule(learned.init(jax.random.key(0)))
    for t in (0.0, 0.3, 1.0):
        level = schedule.level(jnp.float32(t))
        expected = 1000 * (10 - float(level.logsnr)) / 16
        assert float(range_input(schedule)(t, level)) == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind, name", sorted(SINGULAR))
def test_a_kind_that_cannot_tell_x0_is_refused_when_built(kind, name):
    for build in (PARAMETERISATIONS[kind], lambda schedule: jax.jit(lambda: PARAMETERISATIONS[kind](schedule).line)()):
        with pytest.raises(ValueError, match=f"{kind} is singular at t = 1, where alpha = 0 .*; choose v or x0"):
            build(ALL[name]())


def test_a_nearly_singular_kind_is_refused():
    almost = Schedule(lambda t: NoiseLevel(jnp.cos(t * jnp.pi / 2) ** 4, jnp.sin(t * jnp.pi / 2)), None)
    with pytest.raises(ValueError, match="eps is singular at t = 1"):
        PARAMETERISATIONS["eps"](almost)


@pytest.mark.parametrize("sigma_data", [0.0, -1.0])
def test_edm_needs_a_standard_deviation(sigma_data):
    with pytest.raises(ValueError, match=f"sigma_data: got {sigma_data}; give the data's standard deviation"):
        PARAMETERISATIONS["edm"](cosine(), sigma_data)


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


def test_a_rescaled_index_runs_over_a_thousand_whatever_the_table():
    """iDDPM's rescale_timesteps."""
    schedule = SCHEDULES["linear"](steps=4000)
    plain, rescaled = (PARAMETERISATIONS["eps"](schedule, rescale=rescale) for rescale in (False, True))
    t = jnp.array([1, 2, 4000]) / 4000
    np.testing.assert_array_equal(plain.noise_input(t, None), [0, 1, 3999])
    np.testing.assert_array_equal(rescaled.noise_input(t, None), [0, 0.25, 999.75])
