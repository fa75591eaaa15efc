from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from diffusion.schedules import SCHEDULES
from diffusion.times import TIMES, stratified, units

FIXED = ["uniform", "logit_normal", "log_normal"]
LEVELS, HISTORY = 8, 10


def keys(n, step=0):
    return jax.vmap(jax.random.key)(jnp.arange(n) + 10000 * step)


def quantiles(n):
    return ((jnp.arange(n) + 0.5) / n).reshape(-1, 1, 1, 1)


def drawn(name, u, schedule, **settings):
    times = TIMES[name](**settings)
    t, weight = jax.jit(lambda u: times.draw(times.init(), u, schedule))(u)
    assert t.shape == u.shape and weight.shape == (len(u),) and np.all(weight == 1)
    return np.asarray(t).ravel()


@pytest.mark.parametrize("schedule_name", SCHEDULES)
@pytest.mark.parametrize("name", FIXED)
def test_times_are_noisy_and_on_a_tables_levels(name, schedule_name):
    schedule, u = SCHEDULES[schedule_name](), jnp.array([0.0, *quantiles(500).ravel(), 1 - 2**-24])
    t = drawn(name, u.reshape(-1, 1, 1, 1), schedule)
    assert np.all((0 <= t) & (t <= 1)) and np.all(schedule.level(t).sigma > 0)
    assert np.all(t > 0) or schedule.steps is None
    if schedule.steps:
        np.testing.assert_allclose(t * schedule.steps, np.round(t * schedule.steps), rtol=1e-6)


@pytest.mark.parametrize("schedule_name", SCHEDULES)
def test_uniform_times_cover_the_noisy_levels_evenly(schedule_name):
    schedule = SCHEDULES[schedule_name]()
    t = drawn("uniform", quantiles(4000), schedule)
    if schedule.steps:
        levels, counts = np.unique(np.round(t * 1000).astype(int), return_counts=True)
        assert list(levels) == list(range(1, 1001)) and set(counts) == {4}
    else:
        np.testing.assert_allclose(np.sort(t), quantiles(4000).ravel(), atol=1e-6)


def test_logit_normal_has_its_quantiles(x64):
    u = np.asarray(quantiles(1000))
    t = drawn("logit_normal", u, SCHEDULES["flow"](), mean=0.5, std=0.8)
    np.testing.assert_allclose(np.log(t / (1 - t)), scipy.stats.norm(0.5, 0.8).ppf(u.ravel()), atol=1e-9)


@pytest.mark.parametrize("schedule_name", ["edm", "cosine", "vp"])
def test_log_normal_has_its_quantiles_in_sigma_over_alpha(schedule_name, x64):
    schedule, u = SCHEDULES[schedule_name](), np.asarray(quantiles(500))
    t = drawn("log_normal", u, schedule)
    np.testing.assert_allclose(np.log(schedule.level(t).ratio), scipy.stats.norm(-1.2, 1.2).ppf(u.ravel()), atol=1e-6)


def test_a_table_takes_the_nearest_level():
    u = quantiles(1000)
    table, flow = drawn("logit_normal", u, SCHEDULES["linear"]()), drawn("logit_normal", u, SCHEDULES["flow"]())
    np.testing.assert_allclose(table, flow, atol=0.00051)
    ratio = SCHEDULES["linear"]().level(drawn("log_normal", u, SCHEDULES["linear"]())).ratio
    inside = np.log(ratio) > -4
    expected = scipy.stats.norm(-1.2, 1.2).ppf(u.ravel())
    np.testing.assert_allclose(np.log(ratio)[inside], expected[inside], atol=0.1)


def test_an_example_draws_from_its_own_key():
    whole = units(keys(8))
    np.testing.assert_array_equal(units(keys(8)[3:5]), whole[3:5])
    assert whole.shape == (8, 1, 1, 1) and np.all(units(keys(8, step=1)) != whole)
    assert scipy.stats.kstest(np.asarray(units(keys(20000))).ravel(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("name", FIXED)
def test_any_times_can_be_stratified_over_the_batch(name):
    """One quantile in each of 64 parts, wherever in the batch its example is."""
    position = jax.random.permutation(jax.random.key(1), 64)
    u = stratified(units(keys(64)), position, 64)
    assert np.all(np.floor(np.asarray(u).ravel() * 64) == position)
    t = drawn(name, u, SCHEDULES["edm"]())
    edges = drawn(name, jnp.clip(jnp.arange(65) / 64, 1e-7, 1 - 1e-7).reshape(-1, 1, 1, 1), SCHEDULES["edm"]())
    low, high = np.sort([edges[:-1], edges[1:]], axis=0)[:, np.asarray(position)]
    assert np.all((low - 1e-6 <= t) & (t <= high + 1e-6))


def resampler(batches, uniform):
    """iDDPM's loss-second-moment resampler as a loop over examples: (the last losses of each level, its p)."""
    last, p = [deque(maxlen=HISTORY) for _ in range(LEVELS)], []
    for k, losses, valid in batches:
        for level, loss, counts in zip(k, losses, valid, strict=True):
            if counts:
                last[level - 1].append(loss)
        size = np.array([np.sqrt(np.mean(np.square(each))) if each else 0 for each in last])
        warm = all(len(each) == HISTORY for each in last)
        p.append((1 - uniform) * size / size.sum() + uniform / LEVELS if warm else np.full(LEVELS, 1 / LEVELS))
    return last, p


def batches(n=12, size=40):
    """Levels at random, so that several of a batch share one; in the ninth batch all but two."""
    rng = np.random.default_rng(0)
    for i in range(n):
        k = rng.integers(1, LEVELS + 1, size)
        k[2:] = 5 if i == 8 else k[2:]
        yield k, rng.exponential(size=size) * k, rng.random(size) < 0.8


def learned(times, seen):
    learn, memories = jax.jit(times.learn), [times.init()]
    for k, losses, valid in seen:
        t = jnp.float32(k / LEVELS).reshape(-1, 1, 1, 1)
        memories.append(learn(memories[-1], t, jnp.float32(losses), jnp.asarray(valid)))
    return memories[1:]


def chances(times, memories, n=4000):
    """For each memory how often each level is drawn, and the weight that it is drawn with."""
    draw = jax.jit(lambda memory: times.draw(memory, quantiles(n), None))
    for t, weight in (map(np.asarray, draw(memory)) for memory in memories):
        k = np.round(t.ravel() * LEVELS).astype(int)
        yield np.bincount(k, minlength=LEVELS + 1)[1:] / n, [weight[k == i].mean() for i in range(1, LEVELS + 1)]


def test_importance_is_iddpms_resampler():
    times = TIMES["importance"](LEVELS, HISTORY, uniform=0.1)
    seen = list(batches())
    last, p = resampler(seen, 0.1)
    memories = learned(times, seen)
    for (share, weight), expected in zip(chances(times, memories), p, strict=True):
        np.testing.assert_allclose(share, expected, atol=1 / 2000)
        np.testing.assert_allclose(weight, 1 / (LEVELS * expected), rtol=1e-4)
    np.testing.assert_allclose(np.sort(memories[-1]["losses"]), [sorted(each) for each in last], rtol=1e-6)
    warm = [np.ptp(each) > 0 for each in p]
    assert not warm[0] and warm[-1]


def test_the_weight_keeps_the_mean_of_uniform_times():
    times = TIMES["importance"](LEVELS, HISTORY, uniform=0.1)
    *_, (share, weight) = chances(times, learned(times, batches()))
    assert np.ptp(share) > 0.1
    np.testing.assert_allclose(share * np.array(weight), 1 / LEVELS, rtol=0.02)


def test_invalid_examples_teach_nothing():
    times = TIMES["importance"](LEVELS, HISTORY)
    memory = learned(times, batches())[-1]
    k, losses, _ = next(batches())
    after = times.learn(memory, jnp.float32(k / LEVELS).reshape(-1, 1, 1, 1), jnp.float32(losses), jnp.zeros(40, bool))
    jax.tree.map(np.testing.assert_array_equal, after, memory)
    nan = times.learn(memory, jnp.ones((2, 1, 1, 1)), jnp.array([jnp.nan, 1.0]), jnp.array([False, True]))
    assert np.all(np.isfinite(nan["losses"])) and nan["seen"].sum() == memory["seen"].sum() + 1


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: TIMES["logit_normal"](std=0.0), "std: got 0.0; give a positive number"),
        (lambda: TIMES["log_normal"](std=-1.0), "std: got -1.0; give a positive number"),
        (lambda: TIMES["importance"](8, uniform=0.0), r"uniform: got 0.0; give a share in \(0, 1\]"),
    ],
)
def test_times_that_cannot_be_are_refused(build, words):
    with pytest.raises(ValueError, match=words):
        build()
