import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import affine, gaussian, mixture, predict

from diffusion.grids import GRIDS, trailing
from diffusion.guidance import Guidance, dynamic_threshold, guide
from diffusion.samplers import SAMPLERS
from diffusion.sampling import normal, prior, sample, trajectory
from diffusion.schedules import SCHEDULES

SHAPE = (2, 2, 3)
linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine"]


def keys(*seeds):
    return jax.vmap(jax.random.key)(jnp.array(seeds))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_prior_has_the_noise_of_the_last_level(name):
    schedule = SCHEDULES[name]()
    x = prior(keys(*range(2000)), (4, 4, 3), schedule)
    assert x.dtype == jnp.float32
    assert float(x.std()) == pytest.approx(float(schedule.level(jnp.float32(1)).sigma), rel=0.01)


def test_a_grid_that_starts_late_starts_from_its_own_level():
    schedule = SCHEDULES["edm"]()
    times = GRIDS["karras"](schedule, 20, sigma_max=10.0)
    x = prior(keys(*range(500)), (4, 4, 3), schedule, times[0])
    assert float(x.std()) == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_seed_i_is_image_i_in_any_batch(name):
    schedule = linear()
    denoise, sampler, times = gaussian(schedule), SAMPLERS[name](schedule), trailing(schedule, 10)
    images = jax.jit(lambda keys: sample(keys, denoise, sampler, times, prior(keys, SHAPE, schedule)))
    together, alone = images(keys(3, 1, 4, 5)), images(keys(4))
    np.testing.assert_array_equal(prior(keys(3, 1, 4), SHAPE, schedule)[2:], prior(keys(4), SHAPE, schedule))
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)
    assert np.all(np.std(np.asarray(together), axis=0) > 0)


def test_the_loop_walks_the_steps_with_a_key_for_each(x64, optimised):
    """The whole loop against its own steps, with noise drawn here from (seed, step)."""
    schedule = linear()
    denoise, sampler, times = gaussian(schedule, 0.3), SAMPLERS["ancestral"](schedule), trailing(schedule, 7)
    x = prior(keys(5, 6), SHAPE, schedule)
    expected = [x]
    for i, (a, b, c) in enumerate(zip(*affine(sampler, denoise, times)[0], strict=True)):
        step_keys = jax.vmap(lambda key, i=i: jax.random.fold_in(key, i + 1))(keys(5, 6))
        expected.append(a * expected[-1] + b + c * normal(step_keys, SHAPE))
    path = optimised(lambda x: trajectory(keys(5, 6), denoise, sampler, times, x))(x)
    np.testing.assert_allclose(path, expected, atol=1e-12)
    last = optimised(lambda x: sample(keys(5, 6), denoise, sampler, times, x))(x)
    np.testing.assert_array_equal(last, path[-1])


@pytest.mark.parametrize("grid", [grid for grid in GRIDS if grid != "given"])
@pytest.mark.parametrize("name", ["ancestral", "ddim"])
def test_a_one_step_method_sees_the_times_of_the_grid_and_never_data(name, grid):
    schedule, called = linear(), []

    def denoise(x, t):
        called.append(float(t))
        return predict(x, x, schedule.level(t))

    times, x = GRIDS[grid](schedule, 4), jnp.ones((1, *SHAPE))
    with jax.disable_jit():
        sample(keys(0), denoise, SAMPLERS[name](schedule), times, x)
    np.testing.assert_allclose(called, times[:-1])
    assert min(called) > 0


def test_one_compilation_serves_a_sweep_and_another_number_of_steps_one_more():
    schedule, compiled = cosine(), []

    @jax.jit
    def images(times, w, share, eta, quantile, seeds):
        compiled.append(True)
        guided = guide(gaussian(schedule, 0.9), gaussian(schedule, -0.9), schedule, Guidance(w, share))
        denoise, batch_keys = dynamic_threshold(guided, schedule, quantile), jax.vmap(jax.random.key)(seeds)
        x = prior(batch_keys, SHAPE, schedule)
        return sample(batch_keys, denoise, SAMPLERS["ddim"](schedule, eta=eta), times, x)

    base = {"w": 3.0, "share": 0.0, "eta": 0.0, "quantile": 0.9, "seeds": jnp.array([0])}
    changes = [{}, {"w": 1.0}, {"share": 0.7}, {"eta": 1.0}, {"quantile": 0.5}, {"seeds": jnp.array([7])}]
    for i, steps in enumerate((4, 6)):
        results = [images(trailing(schedule, steps), **base | change) for change in changes]
        assert len(compiled) == i + 1
        assert len({np.asarray(x).tobytes() for x in results}) == len(results)


@pytest.mark.parametrize("name, settings", [("ancestral", {}), ("ancestral", {"variance": "large"}), ("ddim", {})])
def test_samples_of_a_mixture_are_the_mixture(name, settings):
    weights, means, variance, n = np.array([0.3, 0.7]), np.array([[-0.6, 0.4], [0.5, -0.2]]), 0.01, 4096
    schedule, batch_keys = cosine(), keys(*range(n))
    x = jax.jit(
        lambda keys: sample(
            keys,
            mixture(schedule, weights, means, variance),
            SAMPLERS[name](schedule, **settings),
            trailing(schedule, 150),
            prior(keys, (1, 1, 2), schedule),
        )
    )(batch_keys)
    x = np.asarray(x).reshape(n, 2)
    centred = means - weights @ means
    covariance = variance * np.eye(2) + centred.T @ (weights[:, None] * centred)
    assert np.mean(x[:, 0] < 0) == pytest.approx(0.3, abs=4 * np.sqrt(0.21 / n))
    np.testing.assert_allclose(x.mean(0), weights @ means, atol=0.04)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.02)
