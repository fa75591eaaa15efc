"""Editing on Gaussians, where the true conditional and each algorithm's own bias are known in closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.editing import KNOWN, MASK, MEAN, PAIR, VARIANCE, conditional_moments, moments
from diffusion.editing import METHODS
from diffusion.editing.guided import conjugate_gradients, covariance_guided, posterior_sampled, pseudo_inverse_guided
from diffusion.editing.operators import adjoint, averaged, clipped_averaged, clipped_grey, grey, impose, masked
from diffusion.editing.replacement import jumps, replaced, resampled
from diffusion.editing.start import below, noisy, slerp
from diffusion.editing.tiles import corners, cut, tiled
from diffusion.grids import trailing
from diffusion.oracles import correlated, gaussian, mixture, predict
from diffusion.samplers import SAMPLERS
from diffusion.sampling import normal, prior, sample
from diffusion.schedules import SCHEDULES

SHAPE = (2, 4, 3)
OPERATORS = {
    "mask": lambda: masked((jax.random.uniform(jax.random.key(3), (1, 2, 4, 1)) < 0.5).astype(float)),
    "grey": grey,
    "averaged": lambda: averaged(2),
}


def keys(n):
    return jax.vmap(jax.random.key)(jnp.arange(n))


def images(n=2, seed=1):
    return jax.random.normal(jax.random.key(seed), (n, *SHAPE))


def matrix(operator):
    """A as numpy rows, by its columns."""
    unit = jnp.eye(24).reshape(24, *SHAPE)
    return np.asarray(operator.forward(unit)).reshape(24, -1).T


@pytest.mark.parametrize("name", OPERATORS)
def test_an_operator_is_linear_with_its_pseudo_inverse_and_adjoint(name, x64):
    operator, x = OPERATORS[name](), images()
    a, y = matrix(operator), operator.forward(images())
    flat = np.asarray(x).reshape(2, -1)
    np.testing.assert_allclose(np.asarray(y).reshape(2, -1), flat @ a.T, atol=1e-12)
    np.testing.assert_allclose(
        np.asarray(operator.inverse(y)).reshape(2, -1), flat @ a.T @ np.linalg.pinv(a).T, atol=1e-12
    )
    np.testing.assert_allclose(np.asarray(adjoint(operator, x, y)).reshape(2, -1), flat @ a.T @ a, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_what_is_imposed_is_seen_and_nothing_else_moves(name, x64):
    operator, x, y = OPERATORS[name](), images(), OPERATORS[name]().forward(images(seed=5))
    imposed = impose(operator, x, y)
    np.testing.assert_allclose(operator.forward(imposed), y, atol=1e-12)
    moved = np.asarray(imposed - x).reshape(2, -1)
    seen = np.linalg.pinv(matrix(operator)) @ matrix(operator)
    np.testing.assert_allclose(moved @ seen, moved, atol=1e-12)


def test_an_operator_whose_blocks_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="blocks of 3 do not tile an image of 2 x 4"):
        averaged(3).forward(images())


@pytest.mark.parametrize(
    "method, sampler",
    [("replacement", "unipc"), ("repaint", "heun"), ("projection", "dpmpp_2m")],
)
def test_the_known_pixels_come_back_to_the_bit(method, sampler):
    schedule, mask = SCHEDULES["cosine"](), jnp.zeros((1, 2, 4, 1)).at[:, :, :2].set(1)
    known, operator = jnp.clip(images(), -1, 1), masked(mask)
    settings = {"jump": 2, "resamplings": 2} if method == "repaint" else {}
    held = METHODS[method](schedule, operator, operator.forward(known), **settings)
    times = held.grid(trailing(schedule, 6))

    @jax.jit
    def draw(keys):
        denoise = held.limit(held.guide(gaussian(schedule)))
        return sample(keys, denoise, held.sampler(SAMPLERS[sampler](schedule)), times, prior(keys, SHAPE, schedule))

    drawn = draw(keys(2))
    np.testing.assert_array_equal(drawn * mask, known * mask)
    assert np.all(np.isfinite(drawn)) and np.all(drawn[:, :, 2:] != known[:, :, 2:])


def test_replacement_and_repaint_have_the_bias_of_their_recursion():
    """Against the recursion in numpy float64; 4 standard errors of 20,000 draws."""
    n, schedule = 20_000, SCHEDULES["cosine"]()
    operator, times = masked(jnp.asarray(MASK)), trailing(schedule, 20)
    denoise, inner = (
        correlated(schedule, jnp.zeros(PAIR), 0.25 * jnp.array([[1, 0.9], [0.9, 1]])),
        SAMPLERS["ancestral"](schedule),
    )
    sampler = resampled(replaced(inner, schedule, operator, jnp.asarray(KNOWN)), schedule)
    for grid in (times, jumps(times, 3, 2)):
        x = jax.jit(lambda keys, g=grid: sample(keys, denoise, sampler, g, prior(keys, PAIR, schedule)))(keys(n))
        x = np.asarray(x, np.float64)[:, 0, 1, 0]
        mean, variance = moments(schedule, grid)
        assert x.mean() == pytest.approx(mean, abs=4 * np.sqrt(variance / n))
        assert x.var() == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / n))


def test_with_the_exact_covariance_draws_have_the_conditionals_mean_and_variance():
    """Those of the ancestral sampler on N(.72, .0475), which approach it with the steps; RePaint's do not."""
    n, schedule = 20_000, SCHEDULES["cosine"]()
    operator, times = masked(jnp.asarray(MASK)), trailing(schedule, 20)
    oracle = correlated(schedule, jnp.zeros(PAIR), 0.25 * jnp.array([[1, 0.9], [0.9, 1]]))
    denoise = covariance_guided(oracle, schedule, operator, jnp.asarray(KNOWN), solves=1)
    sampler = SAMPLERS["ancestral"](schedule)
    x = jax.jit(lambda keys: sample(keys, denoise, sampler, times, prior(keys, PAIR, schedule)))(keys(n))
    mean, variance = conditional_moments(schedule, times)
    assert np.mean(x[:, 0, 1, 0]) == pytest.approx(mean, abs=4 * np.sqrt(variance / n))
    assert np.var(x[:, 0, 1, 0]) == pytest.approx(variance, abs=4 * variance * np.sqrt(2 / n))
    np.testing.assert_allclose(x[:, 0, 0, 0], 0.8, atol=1e-4)
    assert conditional_moments(schedule, trailing(schedule, 4000)) == pytest.approx((MEAN, VARIANCE), rel=0.01)


def test_repaints_bias_falls_as_resamplings_double():
    schedule = SCHEDULES["cosine"]()
    times = trailing(schedule, 100)
    found = [moments(schedule, jumps(times, 1, n) if n > 1 else times) for n in (1, 2, 4, 8, 16)]
    bias = [MEAN - mean for mean, _ in found]
    assert all(after < 0.75 * before for before, after in zip(bias, bias[1:]))
    assert found[0] == pytest.approx((0.493, 0.0730), abs=2e-3) and bias[-1] < 0.02


CLIPPED = {"grey": (grey(), clipped_grey), "averaged": (averaged(2), lambda x, y: clipped_averaged(2, x, y))}


@pytest.mark.parametrize("name", CLIPPED)
def test_clipping_to_the_range_keeps_what_is_seen(name):
    """Saturated images under another's y, black and white among it: in range, with that y; those that fit stay."""
    operator, clipped = CLIPPED[name]
    x = jax.random.uniform(jax.random.key(0), (8, 4, 4, 3), minval=-1.0, maxval=1.0)
    y = operator.forward(jnp.sign(jax.random.normal(jax.random.key(1), x.shape)))
    y = y.at[0].set(1.0).at[1].set(-1.0)
    kept = clipped(x, y)
    assert np.abs(kept).max() <= 1 + 1e-6
    np.testing.assert_allclose(operator.forward(kept), y, atol=1e-6)
    np.testing.assert_allclose(clipped(x, operator.forward(x)), x, atol=1e-6)
    assert not np.allclose(kept, clipped(0 * x, y), atol=0.1)  # something of x is left


@pytest.mark.parametrize("name, schedule_name", [("mask", "cosine"), ("grey", "flow"), ("averaged", "cosine")])
def test_with_the_exact_covariance_the_prediction_is_the_true_conditionals(name, schedule_name, x64):
    """Against Bayes' formula on (x_t, y) together, with the images' own mean and full covariance."""
    schedule, operator = SCHEDULES[schedule_name](), OPERATORS[name]()
    rng, a = np.random.default_rng(0), matrix(operator)
    root, mean = rng.normal(size=(24, 24)) / 5, rng.normal(size=24)
    covariance = root @ root.T
    y = operator.forward(images(seed=5))
    kept = np.linalg.matrix_rank(a)
    rows = np.linalg.svd(a)[2][:kept]  # the independent part of y, which alone has a density
    told = np.asarray(operator.inverse(y)).reshape(2, -1) @ rows.T
    guided = covariance_guided(
        correlated(schedule, mean.reshape(SHAPE), covariance), schedule, operator, y, solves=kept
    )
    for t in (0.9, 0.4, 0.05):
        alpha, sigma = (float(part) for part in schedule.level(jnp.float64(t)))
        both = np.concatenate([alpha * np.eye(24), rows])
        gain = covariance @ both.T @ np.linalg.inv(both @ covariance @ both.T + np.diag([sigma**2] * 24 + [0.0] * kept))
        seen = np.concatenate([np.asarray(images()).reshape(2, -1), told], axis=1)
        expected = mean + (seen - both @ mean) @ gain.T
        guess = guided(images(), jnp.float64(t))
        np.testing.assert_allclose(np.asarray(guess.x0).reshape(2, -1), expected, atol=1e-6)
        np.testing.assert_allclose(alpha * guess.x0 + sigma * guess.eps, images(), atol=1e-9)


def test_independent_pixels_of_the_stated_variance_make_pigdm_exact(x64):
    """Then r^2 is the true variance, and what is told by grey moves the channels as Bayes' formula does."""
    schedule, operator, variance, t = SCHEDULES["cosine"](), grey(), 0.36, jnp.float64(0.5)
    y, x, oracle = operator.forward(images(seed=5)), images(), gaussian(SCHEDULES["cosine"](), 0.0, 0.36)
    guess = pseudo_inverse_guided(oracle, schedule, operator, y, variance)(x, t)
    np.testing.assert_allclose(guess.x0, impose(operator, oracle(x, t).x0, y), atol=1e-9)


def test_at_pure_noise_a_guided_prediction_stays_finite():
    schedule, operator = SCHEDULES["flow"](), grey()
    y = operator.forward(images(seed=5))
    for method in ("pigdm", "covariance", "dps"):
        held = METHODS[method](schedule, operator, y)
        sampler = held.sampler(SAMPLERS["ddim"](schedule))
        x = sample(keys(2), held.guide(gaussian(schedule)), sampler, trailing(schedule, 3), images())
        assert np.all(np.isfinite(x))


def test_the_step_of_dps_is_against_the_distances_slope(x64):
    schedule, operator, zeta, t, s = SCHEDULES["cosine"](), averaged(2), 0.3, jnp.float64(0.5), jnp.float64(0.4)
    y, x, oracle = (
        operator.forward(images(seed=5)),
        images(),
        mixture(schedule, [0.4, 0.6], [[-0.5] * 3, [0.5] * 3], 0.04),
    )
    plain = SAMPLERS["ddim"](schedule)
    moved = posterior_sampled(plain, operator, y, zeta).step(keys(2), oracle, x, (), t, s)[0]
    moved = moved - plain.step(keys(2), oracle, x, (), t, s)[0]

    def distance(x):
        return np.sqrt(np.sum(np.asarray(y - operator.forward(oracle(x, t).x0)) ** 2, axis=(1, 2, 3)))

    for seed in (7, 8):
        along = images(seed=seed)
        slope = (distance(x + 1e-5 * along) - distance(x - 1e-5 * along)) / 2e-5
        np.testing.assert_allclose(np.sum(moved * along, axis=(1, 2, 3)), -zeta * slope, rtol=1e-5)


def test_conjugate_gradients_solve_each_example_alone(x64):
    rng = np.random.default_rng(0)
    roots = rng.normal(size=(3, 4, 4))
    matrices, b = roots @ roots.transpose(0, 2, 1), rng.normal(size=(3, 4))
    matrices[2] = -np.eye(4)  # no curvature to go by: it stays
    solved = conjugate_gradients(lambda u: jnp.einsum("bij,bj->bi", matrices, u), jnp.asarray(b), 4)
    np.testing.assert_allclose(solved[:2], np.linalg.solve(matrices[:2], b[:2, :, None])[..., 0], rtol=1e-6)
    np.testing.assert_array_equal(solved[2], 0)


def test_the_published_jumps_are_4570_steps():
    """RePaint's 250 times, jumps of 10, 10 resamplings."""
    times = np.linspace(1, 0, 251)
    walk = jumps(times)
    down = np.diff(walk) < 0
    assert len(walk) - 1 == 250 + 24 * 9 * 11 and np.sum(down) == 250 + 24 * 9 * 10
    np.testing.assert_allclose(np.diff(walk)[~down], 10 / 250)
    assert np.abs(np.diff(walk)).sum() * 250 == pytest.approx(4570)  # single steps, as they count them
    np.testing.assert_array_equal(jumps(times, 10, 1), times)


@pytest.mark.parametrize("name", ["heun", "predictor_corrector"])
def test_calls_over_a_grid_with_jumps_are_counted_truly(name):
    schedule, called = SCHEDULES["cosine"](), []
    oracle, sampler = gaussian(schedule), resampled(SAMPLERS[name](schedule), schedule)

    def denoise(x, t):
        called.append(float(t))
        return oracle(x, t)

    times = jumps(trailing(schedule, 4), 2, 2)
    with jax.disable_jit():
        sample(keys(1), denoise, sampler, times, jnp.ones((1, *SHAPE)))
    assert len(called) == sampler.calls(times) and min(called) > 0


@pytest.mark.parametrize(
    "length, resamplings, words", [(0, 2, "length 0"), (2, 0, "resamplings 0"), (6, 2, "5 at most")]
)
def test_jumps_that_no_grid_has_are_refused(length, resamplings, words):
    with pytest.raises(ValueError, match=words):
        jumps(np.linspace(1, 0, 7), length, resamplings)


def test_a_strength_is_the_time_that_sampling_starts_from():
    linear, cosine = SCHEDULES["linear"](), SCHEDULES["cosine"]()
    times = trailing(linear, 4)
    np.testing.assert_allclose(below(linear, times, 0.6), [0.6, 0.5, 0.25, 0])
    np.testing.assert_allclose(below(linear, times, 1.0), times)
    np.testing.assert_allclose(below(linear, times, 0.0011), [0.001, 0])
    np.testing.assert_allclose(below(cosine, times, 0.5), [0.5, 0.25, 0])
    for strength in (0.0, 1.1, -1.0, float("nan")):
        with pytest.raises(ValueError, match=r"give a time in \(0, 1\]"):
            below(linear, times, strength)
    with pytest.raises(ValueError, match="below the first of 1000 levels"):
        below(linear, times, 0.0004)
    x0, level = images(), linear.level(jnp.float32(0.6))
    noise = prior(keys(2), SHAPE, linear, 1.0) / linear.level(jnp.float32(1.0)).sigma
    np.testing.assert_allclose(noisy(keys(2), x0, linear, 0.6), level.alpha * x0 + level.sigma * noise, atol=1e-6)


def test_between_two_noises_is_noise(x64):
    a, b = (normal(jax.random.split(jax.random.key(seed), 3), (8, 8, 3)) for seed in (1, 2))
    for share in (0.0, 0.3, 1.0):
        between = slerp(a, b, share)
        assert float(between.std()) == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(slerp(a, b, 0.0), a, atol=1e-12)
    np.testing.assert_allclose(slerp(a, b, jnp.array([1.0, 1.0, 1.0])), b, atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, 0.5), a, atol=1e-12)
    u, v = np.zeros((2, 1, 1, 2, 1))
    u[..., 0, 0], v[..., 1, 0] = 1, 1
    np.testing.assert_allclose(np.ravel(slerp(u, v, 1 / 3)), [np.cos(np.pi / 6), np.sin(np.pi / 6)], atol=1e-12)


@pytest.mark.parametrize("size, tile, overlap", [(8, 8, 0), (9, 8, 0), (100, 16, 4), (17, 16, 15), (64, 16, 0)])
def test_tiles_cover_all_and_overlap_as_asked(size, tile, overlap):
    starts = corners(size, tile, overlap)
    assert starts[0] == 0 and starts[-1] == size - tile
    assert np.all(np.diff(starts) <= tile - overlap) and np.all(np.diff(starts) > 0)


def test_tiles_that_cannot_be_are_refused():
    for size, tile, overlap in ((7, 8, 0), (9, 8, 8)):
        with pytest.raises(ValueError, match=f"got {size} pixels, tiles of {tile}"):
            corners(size, tile, overlap)


def test_where_tiles_agree_the_whole_is_what_each_says(x64):
    schedule, t = SCHEDULES["cosine"](), jnp.float64(0.4)
    oracle, x = gaussian(schedule, 0.3), jax.random.normal(jax.random.key(0), (2, 10, 7, 3))
    whole = tiled(lambda corner: oracle, corners(10, 4, 1), corners(7, 4, 2), (4, 4))(x, t)
    for made, expected in zip(whole[:2], oracle(x, t)[:2]):
        np.testing.assert_allclose(made, expected, atol=1e-12)


def test_where_tiles_differ_x_t_is_still_explained_and_an_edge_is_a_tiles_own(x64):
    """Each tile predicts its own top row: a mean between two rows where they overlap."""
    schedule, t = SCHEDULES["cosine"](), jnp.float64(0.4)
    level, x = schedule.level(t), jax.random.normal(jax.random.key(0), (1, 10, 4, 1))

    def denoise_at(corner):
        return lambda tile, t: predict(jnp.full_like(tile, corner[0]), tile, level)

    guess = tiled(denoise_at, corners(10, 6, 2), corners(4, 4, 0), (6, 4))(x, t)
    np.testing.assert_allclose(level.alpha * guess.x0 + level.sigma * guess.eps, x, atol=1e-12)
    rows = np.asarray(guess.x0)[0, :, 0, 0]
    np.testing.assert_array_equal(rows[:4], 0)
    np.testing.assert_array_equal(rows[6:], 4)
    assert 0 < rows[4] < rows[5] < 4
    np.testing.assert_array_equal(cut(x, jnp.array([4, 0]), (6, 4)), x[:, 4:])
