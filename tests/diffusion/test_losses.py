import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian

from diffusion.gaussian import corrupt
from diffusion.likelihood import variational_term
from diffusion.losses import LOSSES, WEIGHTINGS, hybrid, trivial, weighted
from diffusion.prediction import PARAMETERISATIONS, decode, target
from diffusion.schedules import cosine, linear, variance_preserving

X0_WEIGHTS = {
    "simple": lambda snr: snr,
    "uniform_x0": lambda snr: 1 + 0 * snr,
    "uniform_v": lambda snr: snr + 1,
    "min_snr": lambda snr: np.minimum(snr, 5),
}


def batch(n, size=4):
    return jax.random.normal(jax.random.key(1), (2, n, size, size, 3))


def times(*values):
    return jnp.array(values).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_weighting_is_one_weight_on_x0_for_every_kind(name, kind, x64):
    schedule, t = cosine(), times(0.02, 0.3, 0.5, 0.8, 0.99)
    level, (x0, eps) = schedule.level(t), batch(5)
    parameterisation = PARAMETERISATIONS[kind](schedule)
    out = 0.9 * target(parameterisation, x0, eps, level) + 0.1
    guess = decode(parameterisation, out, corrupt(x0, eps, level), level)
    snr = np.exp(np.asarray(level.logsnr)).ravel()
    expected = X0_WEIGHTS[name](snr) * np.mean((guess.x0 - x0) ** 2, axis=(1, 2, 3))
    actual = weighted(schedule, parameterisation, WEIGHTINGS[name]())(out, x0, eps, t)
    np.testing.assert_allclose(actual, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_losses_are_finite_at_extreme_levels(name, kind):
    schedule, t = cosine(-20, 20), times(0.0, 1.0)
    x0, eps = batch(2)
    loss = weighted(schedule, PARAMETERISATIONS[kind](schedule), WEIGHTINGS[name]())
    value, gradient = jax.value_and_grad(lambda out: loss(out, x0, eps, t).sum())(0.5 * eps)
    assert np.isfinite(value) and np.all(np.isfinite(gradient))


def test_min_snr_clamps_the_clean_end():
    clean, noisy = variance_preserving(jnp.float32(6)), variance_preserving(jnp.float32(-6))
    simple, clamped = WEIGHTINGS["simple"](), WEIGHTINGS["min_snr"](gamma=5.0)
    assert clamped(noisy) == simple(noisy)
    assert clamped(clean) / simple(clean) == pytest.approx(5 * np.exp(-6), rel=1e-5)


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
    np.testing.assert_allclose(loss, trivial(WEIGHTINGS[name](), level, 0.25).ravel(), rtol=0.05)
    ends = cosine(-20, 20).level(times(0.0, 1.0))
    assert np.all(np.isfinite(trivial(WEIGHTINGS[name](), ends, 0.25)))


def test_an_examples_loss_is_its_own():
    schedule, t, (x0, eps) = linear(), times(0.1, 0.5, 0.9), batch(3)
    for name, channels in (("weighted", 1), ("hybrid", 2)):
        loss = jax.jit(LOSSES[name](schedule, PARAMETERISATIONS["eps"](schedule), WEIGHTINGS["simple"]()))
        out = jnp.tile(0.7 * eps, channels)
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


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_the_bound_trains_the_variance_alone(kind):
    schedule, parameterisation, out, x0, eps, t = hybrid_case(kind)
    simple = WEIGHTINGS["simple"]()
    gradient = lambda loss, out: jax.jit(jax.grad(lambda out: loss(out, x0, eps, t).sum()))(out)  # noqa: E731
    both = gradient(hybrid(schedule, parameterisation, simple), out)
    mean = gradient(weighted(schedule, parameterisation, simple), out[..., :3])
    np.testing.assert_allclose(both[..., :3], mean, rtol=1e-5)
    assert np.all(np.isfinite(both)) and np.all(np.any(both[..., 3:] != 0, axis=(1, 2, 3)))


def test_a_loss_that_does_not_fit_the_network_is_refused():
    schedule, parameterisation, out, x0, eps, t = hybrid_case()
    simple = WEIGHTINGS["simple"]()
    with pytest.raises(ValueError, match="3 output channels; give it 6"):
        hybrid(schedule, parameterisation, simple)(out[..., :3], x0, eps, t)
    with pytest.raises(ValueError, match="or use hybrid"):
        weighted(schedule, parameterisation, simple)(out, x0, eps, t)
    with pytest.raises(ValueError, match="hybrid needs a discrete schedule"):
        hybrid(cosine(), parameterisation, simple)
