"""Laws 15, 18, 19, 20 of the train step, on a problem of one matrix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problem import batch_at, equal, init, make, objective, run

from training import ema, optim
from training.state import new_state
from training.step import Objective, Update, make_train_step, step_keys


def sgd(rate, clip=0.0, accumulate=1):
    optimiser = optim.with_clipping(optax.sgd(rate), clip)
    return new_state(init, optimiser, (), 0), jax.jit(make_train_step(objective, Update(optimiser, {}), accumulate))


@pytest.mark.parametrize("accumulate", [2, 4, 8])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_micro_batches_equal_one_batch_with_clipping_of_the_whole_gradient(accumulate, clip):
    state, whole = sgd(1.0, clip)
    _, parts = sgd(1.0, clip, accumulate)
    a, sums = whole(state, None, batch_at(0))
    b, part_sums = parts(state, None, batch_at(0))
    assert np.allclose(a.params["w"], b.params["w"], atol=1e-6)
    assert np.allclose(sums["loss"][0], part_sums["loss"][0], rtol=1e-5)
    if clip:
        assert np.isclose(np.linalg.norm(a.params["w"] - state.params["w"]), clip, rtol=1e-4)


def test_invalid_examples_change_neither_loss_nor_update():
    state, step = make()
    batch = batch_at(0)
    batch["valid"][5:] = False
    poisoned = batch | {"x": batch["x"].copy()}
    poisoned["x"][5:] = 1e6
    a, sums = step(state, None, batch)
    b, other = step(state, None, poisoned)
    assert equal(a, b) and float(sums["loss"][0]) == float(other["loss"][0])
    assert int(sums["loss"][1]) == 5


def test_the_learning_rate_counts_optimiser_steps():
    state, step = sgd(lambda count: jnp.where(count < 2, 0.0, 1.0), accumulate=4)
    after = run(state, step, 0, 2)[0]
    assert equal(after.params, state.params)
    assert not equal(run(after, step, 2, 3)[0].params, state.params)


def test_a_non_finite_gradient_changes_only_the_counters():
    state, step = make()
    state, _ = run(state, step, 0, 3)
    bad = batch_at(3)
    bad["x"][2, 0] = np.nan
    after, sums = step(state, None, bad)
    assert equal((after.params, after.opt_state, after.ema), (state.params, state.opt_state, state.ema))
    assert int(after.step) == 4 and int(after.extra["skipped"]) == 1 == int(sums["skipped_in_a_row"][0])
    assert int(sums["loss"][1]) == 0 and int(sums["gradient_norm"][1]) == 0
    twice, _ = step(after, None, bad)
    assert int(twice.extra["skipped_in_a_row"]) == 2
    recovered, _ = run(twice, step, 5, 6)
    assert int(recovered.extra["skipped_in_a_row"]) == 0 and int(recovered.extra["skipped"]) == 2
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(recovered.params))


def test_keys_are_unique_over_steps_and_examples_and_functions_of_them_alone():
    seen = set()
    for seed, step in itertools.product((0, 1), range(20)):
        keys, dropout = step_keys(jnp.uint32(seed), jnp.int32(step), 16)
        again, _ = step_keys(jnp.uint32(seed), jnp.int32(step), 32)
        assert np.array_equal(jax.random.key_data(keys), jax.random.key_data(again)[:16])
        seen |= {tuple(map(int, row)) for row in jax.random.key_data(keys)}
        seen.add(tuple(map(int, jax.random.key_data(dropout))))
    assert len(seen) == 2 * 20 * 17


def test_dropout_keys_differ_between_steps_and_micro_batches():
    def losses(params, frozen, memory, keys, batch, dropout_key):
        return jnp.zeros(len(batch["valid"])), {"key": (jax.random.uniform(dropout_key), jnp.int32(1))}, {}

    record = Objective(losses)
    state, step = make(objective=record)
    draws = []
    for k in range(3):
        state, sums = step(state, None, batch_at(k))
        draws.append(float(sums["key"][0]))
    assert len(set(draws)) == 3
    _, parts = make(objective=record, accumulate=2)
    total = float(parts(make(objective=record)[0], None, batch_at(0))[1]["key"][0])
    assert total != pytest.approx(2 * draws[0])


@pytest.mark.parametrize("accumulate", [1, 4])
def test_an_objective_learns_from_the_whole_batch_in_its_order_and_not_from_a_skipped_step(accumulate):
    def losses(params, frozen, memory, keys, batch, dropout_key):
        values = (batch["x"] @ params["w"]).sum(axis=1) + memory["last"][batch["position"]]
        return values, {}, {"position": batch["position"], "x": batch["x"][:, 0]}

    def learn(memory, notes):
        return {"last": notes["x"] + 100 * notes["position"]}

    remembering = Objective(losses, lambda: {"last": jnp.zeros(8)}, learn)
    state, step = make(objective=remembering, accumulate=accumulate, memory=remembering.memory)
    batch = batch_at(0)
    state, _ = step(state, None, batch)
    np.testing.assert_array_equal(
        state.extra["memory"]["last"], batch["x"][:, 0] + 100 * np.arange(8, dtype=np.float32)
    )
    bad = batch_at(1)
    bad["x"][3] = np.nan
    after, _ = step(state, None, bad)
    assert equal(after.extra["memory"], state.extra["memory"]) and int(after.extra["skipped"]) == 1


def test_another_seed_is_another_run():
    assert not equal(make(seed=0)[0].params, make(seed=1)[0].params)


@pytest.mark.parametrize("warmup, decay", [(10, 0), (10, 50), (0, 50), (0, 0)])
def test_the_learning_rate_rises_linearly_from_zero_and_falls_to_zero(warmup, decay):
    rate = optim.learning_rate_schedule(2.0, warmup, decay)
    if warmup:
        assert np.allclose([rate(k) for k in range(warmup)], 2.0 * np.arange(warmup) / warmup)
    assert np.isclose(rate(warmup), 2.0)
    assert np.isclose(rate(decay or 10**6), 0.0 if decay else 2.0, atol=1e-6)


def test_a_decay_by_the_root_of_time_follows_its_warm_up():
    rate = optim.learning_rate_schedule(2.0, 10, root_from=40)
    steps = np.arange(200)
    expected = 2.0 * np.minimum(steps / 10, 1) / np.sqrt(np.maximum(steps / 40, 1))
    np.testing.assert_allclose([rate(step) for step in steps], expected, rtol=1e-6)


def test_parameters_are_projected_after_each_update_and_so_averaged():
    optimiser = optim.with_clipping(optax.sgd(0.5), 0.0)
    update = Update(optimiser, ema.rules((0.0,), False), project=lambda params: jax.tree.map(jnp.sign, params))
    state = new_state(init, optimiser, ("0.0",), 0)
    state, _ = jax.jit(make_train_step(objective, update))(state, None, batch_at(0))
    assert set(np.abs(state.params["w"]).ravel()) == {1.0}
    np.testing.assert_allclose(state.ema["0.0"]["w"], state.params["w"], atol=1e-6)


def test_shares_clipped_each_are_clipped_before_their_sum():
    """DDPM's replicas: the mean of gradients, each of which was clipped to a norm of 1."""
    optimiser, parts = optim.with_clipping(optax.sgd(1.0), 0.0), 4
    update = Update(optimiser, {}, clip_each=1.0 / parts)
    state = new_state(init, optimiser, (), 0)
    after, _ = jax.jit(make_train_step(objective, update, parts))(state, None, batch_at(0))

    def gradient(params, rows):
        keys, batch = step_keys(np.uint32(0), state.step, 8)[0][rows], jax.tree.map(lambda x: x[rows], batch_at(0))
        return jax.grad(lambda p: objective.losses(p, None, {}, keys, batch, None)[0].mean())(params)["w"]

    each = [gradient(state.params, np.arange(j, 8, parts)) for j in range(parts)]
    norms = [np.linalg.norm(g) for g in each]
    assert min(norms) < 1 < max(norms) or min(norms) > 1  # some are clipped
    expected = np.mean([g / max(norm, 1) for g, norm in zip(each, norms)], axis=0)
    np.testing.assert_allclose(state.params["w"] - after.params["w"], expected, atol=1e-6)
