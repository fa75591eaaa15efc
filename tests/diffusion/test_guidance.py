import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import predict

from diffusion.gaussian import Prediction
from diffusion.guidance import dynamic_threshold, extrapolate, guide, guide_pairs, paired, static_threshold
from diffusion.prediction import PARAMETERISATIONS, decode, denoiser
from diffusion.schedules import cosine, linear

SHAPE, T = (4, 8, 8, 3), jnp.float32(0.6)
COND, NULL = {"label": jnp.array([1, 2, 3, 4])}, {"label": jnp.zeros(4, int)}


def network(x, noise_input, cond):
    """Rough in its condition, so that floating point alone would not undo w = 1."""
    return jnp.sin(x) * (1 + 1e4 * (cond["label"] == 0))[:, None, None, None] + cond["label"][:, None, None, None]


def build(cond, net=network, kind="v"):
    return denoiser(net, cond, cosine(), PARAMETERISATIONS[kind](cosine()))


def image(scale=1.0):
    return scale * jax.random.normal(jax.random.key(2), SHAPE)


def assert_same(actual, expected):
    for a, b in zip(actual[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "wrap",
    [lambda w: guide(build(COND), build(NULL), w), lambda w: guide_pairs(build(paired(COND, NULL)), w)],
)
def test_neutral_guidance_is_bit_for_bit(wrap):
    assert_same(wrap(jnp.float32(1))(image(), T), build(COND)(image(), T))
    assert_same(wrap(jnp.float32(0))(image(), T), build(NULL)(image(), T))


def test_one_double_pass_is_two_passes():
    two, one = guide(build(COND), build(NULL), 2.5), guide_pairs(build(paired(COND, NULL)), 2.5)
    assert_same(one(image(), T), two(image(), T))


def test_a_double_pass_calls_the_network_once():
    sizes = []

    def counted(x, noise_input, cond):
        sizes.append((len(x), len(noise_input), len(cond["label"])))
        return network(x, noise_input, cond)

    guide_pairs(build(paired(COND, NULL), counted), 2.0)(image(), T)
    assert sizes == [(8, 8, 8)]


@pytest.mark.parametrize("kind", PARAMETERISATIONS)
def test_guidance_is_the_same_in_every_space(kind, x64):
    main, base, x = jax.random.normal(jax.random.key(3), (3, *SHAPE))
    level, parameterisation = cosine().level(jnp.float64(0.6)), PARAMETERISATIONS[kind](cosine())
    outside = decode(parameterisation, base + 3.0 * (main - base), x, level)
    inside = extrapolate(*(decode(parameterisation, out, x, level) for out in (main, base)), 3.0)
    np.testing.assert_allclose(inside.x0, outside.x0, atol=1e-12)
    np.testing.assert_allclose(inside.eps, outside.eps, atol=1e-12)


def test_the_learned_variance_is_the_conditional_ones():
    main, base = Prediction(1.0, 2.0, frac=0.3), Prediction(3.0, 4.0, frac=0.9)
    assert extrapolate(main, base, 2.0) == (-1, 0, 0.3)


def oracle(scale):
    """Predicts the given x0, consistently with x."""
    return lambda x, t: predict(image(scale), x, linear().level(t))


THRESHOLDS = [
    lambda denoise: static_threshold(denoise, linear()),
    lambda denoise: dynamic_threshold(denoise, linear(), 0.9),
]


@pytest.mark.parametrize("wrap", THRESHOLDS)
@pytest.mark.parametrize("t", [0.001, 0.3, 1.0])
def test_a_thresholded_prediction_still_explains_x(wrap, t):
    x, level = image(2.0), linear().level(jnp.float32(t))
    guess = wrap(oracle(3.0))(x, jnp.float32(t))
    assert jnp.max(abs(guess.x0)) <= 1
    np.testing.assert_allclose(level.alpha * guess.x0 + level.sigma * guess.eps, x, atol=2e-6)


@pytest.mark.parametrize("wrap", THRESHOLDS)
def test_thresholds_leave_an_image_in_range_alone(wrap):
    x = image()
    inside = lambda x, t: predict(jnp.tanh(x), x, linear().level(t))  # noqa: E731
    assert_same(wrap(inside)(x, T), inside(x, T))


def test_static_threshold_clips():
    np.testing.assert_array_equal(static_threshold(oracle(2.0), linear())(image(), T).x0, np.clip(image(2.0), -1, 1))


def test_dynamic_threshold_is_imagens_per_example():
    guess = dynamic_threshold(lambda x, t: predict(x, x, linear().level(t)), linear(), 0.8)
    x = image() * jnp.array([0.1, 1.0, 2.0, 5.0]).reshape(4, 1, 1, 1)
    s = np.maximum(np.quantile(abs(np.asarray(x)).reshape(4, -1), 0.8, axis=1), 1).reshape(4, 1, 1, 1)
    np.testing.assert_allclose(guess(x, T).x0, np.clip(x, -s, s) / s, rtol=1e-6)
    np.testing.assert_allclose(guess(x[2:3], T).x0, guess(x, T).x0[2:3], rtol=1e-6)
