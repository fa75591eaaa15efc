import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import gaussian, mixture, predict

from diffusion.gaussian import Prediction
from diffusion.guidance import (
    Guidance,
    classifier_guide,
    dynamic_threshold,
    extrapolate,
    guide,
    guide_pairs,
    paired,
    rescale,
    static_threshold,
    within,
)
from diffusion.prediction import PARAMETERISATIONS, decode, denoiser
from diffusion.schedules import SCHEDULES

linear, cosine = SCHEDULES["linear"], SCHEDULES["cosine"]
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


def in_two(*guidance):
    return guide(build(COND), build(NULL), cosine(), Guidance(*guidance))


def in_one(*guidance):
    return guide_pairs(build(paired(COND, NULL)), cosine(), Guidance(*guidance))


@pytest.mark.parametrize("share", [None, 0.7])
@pytest.mark.parametrize("wrap", [in_two, in_one])
def test_neutral_guidance_is_bit_for_bit(wrap, share):
    assert_same(wrap(jnp.float32(1), share)(image(), T), build(COND)(image(), T))
    if share is None:
        assert_same(wrap(jnp.float32(0))(image(), T), build(NULL)(image(), T))


@pytest.mark.parametrize("share", [None, 0.7])
def test_one_double_pass_is_two_passes(share):
    assert_same(in_one(2.5, share)(image(), T), in_two(2.5, share)(image(), T))


@pytest.mark.parametrize("wrap", [in_two, in_one])
def test_guided_channels_are_guided_and_the_rest_is_the_conditional_prediction(wrap):
    """DiT's code guides 3 of its 4 channels."""
    some, all_of_them, main = wrap(2.5, None, 2)(image(), T), wrap(2.5)(image(), T), build(COND)(image(), T)
    for found, whole, plain in zip(some[:2], all_of_them[:2], main[:2], strict=True):
        np.testing.assert_array_equal(found[..., :2], whole[..., :2])
        np.testing.assert_array_equal(found[..., 2:], plain[..., 2:])
        assert np.abs(whole - plain)[..., 2:].max() > 1


def test_a_double_pass_calls_the_network_once():
    sizes = []

    def counted(x, noise_input, cond):
        sizes.append((len(x), len(noise_input), len(cond["label"])))
        return network(x, noise_input, cond)

    guide_pairs(build(paired(COND, NULL), counted), cosine(), Guidance(2.0))(image(), T)
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


def test_a_weaker_network_guides_away_from_its_own_errors(x64):
    """Autoguidance: where both err in the same direction, the weaker one twice as far, w = 2 is the truth."""
    schedule, x, t = SCHEDULES["edm"](), jnp.float64(image()), jnp.float64(0.5)
    truth, (main, weak) = gaussian(schedule, 0.0), (gaussian(schedule, mean) for mean in (0.1, 0.2))
    guided = guide(main, weak, schedule, Guidance(2.0))(x, t)
    np.testing.assert_allclose(guided.x0, truth(x, t).x0, atol=1e-12)
    np.testing.assert_allclose(guided.eps, truth(x, t).eps, atol=1e-12)


def stds(x0):
    return np.std(np.asarray(x0), axis=(1, 2, 3))


def rescaled(share, x=None, schedule=None, t=T):
    """(main, guided without rescaling, guided with it)."""
    schedule, x = schedule or cosine(), image() if x is None else x
    scales = jnp.array([0.5, 1.0, 2.0, 3.0])[: len(x)].reshape(-1, 1, 1, 1)
    main = predict(scales * jnp.sin(3 * x), x, schedule.level(t))
    mixed = extrapolate(main, predict(jnp.cos(x), x, schedule.level(t)), 4.0)
    return main, mixed, rescale(main, mixed, schedule.level(t), share)


def test_a_full_rescale_gives_back_the_conditional_standard_deviation(x64):
    main, mixed, full = rescaled(1.0)
    np.testing.assert_allclose(stds(full.x0), stds(main.x0), rtol=1e-9)
    assert np.all(abs(stds(mixed.x0) / stds(main.x0) - 1) > 0.1)
    half = rescaled(0.5)[2]
    np.testing.assert_allclose(half.x0, (mixed.x0 + full.x0) / 2, atol=1e-12)


def test_no_rescale_is_bit_for_bit():
    _, mixed, none = rescaled(jnp.float32(0))
    assert_same(none, mixed)


@pytest.mark.parametrize("name", ["cosine", "edm", "flow"])
def test_a_rescaled_prediction_still_explains_x(name, x64):
    schedule, x, t = SCHEDULES[name](), jnp.float64(image()), jnp.float64(0.6)
    level, guess = schedule.level(t), rescaled(0.7, x, schedule, t)[2]
    np.testing.assert_allclose(level.alpha * guess.x0 + level.sigma * guess.eps, x, atol=1e-9)


def test_an_examples_rescale_is_its_own(x64):
    np.testing.assert_allclose(rescaled(0.7, image()[:2])[2].x0, rescaled(0.7)[2].x0[:2], atol=1e-12)


def test_an_interval_runs_only_the_branch_that_it_uses():
    schedule, called = SCHEDULES["edm"](), []

    def branch(name):
        return lambda x, t: called.append(name) or predict(0 * x, x, schedule.level(t))

    denoise = within(branch("guided"), branch("plain"), schedule, 0.28, 2.9)
    sigmas = [0.01, 0.27, 0.281, 1.0, 2.89, 2.91, 50.0]
    with jax.disable_jit():
        for sigma in sigmas:
            denoise(image(), schedule.time(-2 * jnp.log(jnp.float32(sigma))))
    assert called == ["plain"] * 2 + ["guided"] * 3 + ["plain"] * 2


def test_an_interval_of_all_levels_or_none_is_guided_or_plain(optimised):
    guided, plain = in_one(3.0), build(COND)
    for low, branch in ((0.0, guided), (jnp.inf, plain)):
        assert_same(optimised(within(guided, plain, cosine(), low, jnp.inf))(image(), T), optimised(branch)(image(), T))


@pytest.mark.parametrize("name, t", [("cosine", 0.4), ("linear", 0.5), ("edm", 0.6), ("flow", 0.7), ("sub_vp", 1.0)])
def test_a_true_classifier_makes_the_conditional_denoiser(name, t, x64):
    """grad log p(x_t | y) = grad log p(x_t) + grad log p(y | x_t), with two classes that are Gaussians."""
    schedule, variance, t = SCHEDULES[name](), 0.09, jnp.float64(t)
    weights, means = [0.3, 0.7], jnp.array([[-0.4, 0.2, 0.1], [0.5, -0.3, 0.0]])
    x = jnp.float64(image()[:, :1, :1])

    def log_likelihood(x, t):
        alpha, sigma = schedule.level(t)
        distance = jnp.sum((x - alpha * means) ** 2, -1).reshape(len(x), 2)
        return jax.nn.log_softmax(jnp.log(jnp.array(weights)) - distance / (2 * (alpha**2 * variance + sigma**2)))[:, 0]

    guided = classifier_guide(mixture(schedule, weights, means, variance), schedule, log_likelihood, 1.0)(x, t)
    conditional = mixture(schedule, [1.0], means[:1], variance)(x, t)
    np.testing.assert_allclose(guided.eps, conditional.eps, atol=1e-10)
    np.testing.assert_allclose(guided.x0, conditional.x0, atol=1e-8)


def test_a_classifier_without_weight_changes_nothing_and_pure_noise_keeps_x0():
    flow = SCHEDULES["flow"]()
    denoise = lambda x, t: predict(jnp.tanh(x), x, flow.level(t))  # noqa: E731
    classifier = lambda x, t: x.sum(axis=(1, 2, 3))  # noqa: E731
    assert_same(classifier_guide(denoise, flow, classifier, 0.0)(image(), T), denoise(image(), T))
    guess, plain = (d(image(), jnp.float32(1)) for d in (classifier_guide(denoise, flow, classifier, 2.0), denoise))
    np.testing.assert_array_equal(guess.x0, plain.x0)
    np.testing.assert_allclose(guess.eps, plain.eps - 2, atol=1e-6)


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


def test_thresholds_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="bound: got 0.0; give a positive number"):
        static_threshold(oracle(1.0), linear(), 0.0)
    for quantile in (99.5, -0.1):
        with pytest.raises(ValueError, match=rf"quantile: got {quantile}; give a share in \[0, 1\]"):
            dynamic_threshold(oracle(1.0), linear(), quantile)
