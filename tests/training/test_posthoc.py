"""Law 13 for averages by a power of time: their closed form, and any width after training from sparse snapshots."""

import itertools
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from problem import batch_at, equal, make
from scipy import integrate

from training import ema, loop, posthoc
from training.checkpoint import Checkpoints
from training.metrics import Silent
from training.sharding import data_mesh, replicated
from training.state import TrainState

GOLDEN = {0.05: 16.972198602, 0.10: 6.937203938, 0.15: 3.557868775}  # the roots, of numpy's float64


@pytest.mark.parametrize("sigma_rel", GOLDEN)
def test_the_power_has_the_standard_deviation_it_is_named_by(sigma_rel):
    gamma = ema.gamma(sigma_rel)
    assert np.isclose(gamma, GOLDEN[sigma_rel], rtol=1e-9)
    first, second = (integrate.quad(lambda t, k=k: (gamma + 1) * t ** (gamma + k), 0, 1)[0] for k in (1, 2))
    assert np.isclose(np.sqrt(second - first**2), sigma_rel, rtol=1e-6)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 12**-0.5, 1.0, float("nan")])
def test_a_width_that_no_power_has_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=f"sigma_rel={sigma_rel} must lie between 0 and 0.2887"):
        ema.gamma(sigma_rel)


def closed_form(path, sigma_rel):
    """The average of the parameters after each update, path [n ...], by their weights, in float64."""
    ends = np.arange(len(path) + 1) / len(path)
    return np.tensordot(np.diff(ends ** (ema.gamma(sigma_rel) + 1)), np.float64(path), 1)


@pytest.mark.parametrize("jump", [1, 4, 40])
@pytest.mark.parametrize("sigma_rel", [0.05, 0.15, 0.25])
def test_a_power_average_after_a_jump_of_the_parameters_is_a_power_of_its_time(sigma_rel, jump):
    average, n = {"w": jnp.full(2, 7.0)}, 50  # the first update forgets the 7
    for k in range(n):
        average = ema.update(average, {"w": jnp.full(2, float(k + 1 >= jump))}, ema.power(sigma_rel)(jnp.int32(k)))
    assert np.allclose(average["w"], 1 - ((jump - 1) / n) ** (ema.gamma(sigma_rel) + 1), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 10**3, 10**6, 5 * 10**6])
def test_the_weight_of_an_update_keeps_its_digits_however_late(n):
    expected = 1 - (1 - np.longdouble(1) / n) ** (ema.gamma(0.1) + 1)
    assert np.isclose(float(ema.power(0.1)(jnp.int32(n - 1))), float(expected), rtol=1e-6)


@pytest.mark.parametrize("accumulate", [1, 4])
def test_one_update_for_each_step_that_is_not_skipped_whatever_the_micro_batches(accumulate):
    state, step = make(accumulate=accumulate, sigma_rels=(0.1,))
    path = []
    for k in range(6):
        batch = batch_at(k)
        batch["x"][0, 0] *= np.nan if k == 2 else 1
        state, _ = step(state, None, batch)
        if k != 2:
            path.append(np.asarray(state.params["w"]))
    assert np.allclose(state.ema["power_0.1"]["w"], closed_form(path, 0.1), atol=1e-6)
    assert state.ema["power_0.1"]["w"].dtype == jnp.float32


def profile(end, sigma_rel):
    return posthoc.Profile(np.float64(end), np.float64(ema.gamma(sigma_rel)))


PROFILES = list(itertools.starmap(profile, itertools.product((3, 10), (0.05, 0.2))))


@pytest.mark.parametrize("a, b", itertools.product(PROFILES, repeat=2))
def test_the_inner_product_of_two_profiles_is_their_integral(a, b):
    def density(t, p):
        return (p.gamma + 1) / p.end * (t / p.end) ** p.gamma

    integral, _ = integrate.quad(lambda t: density(t, a) * density(t, b), 0, min(a.end, b.end))
    assert np.isclose(posthoc.inner(a, b), integral, rtol=1e-8)


STEPS, EVERY, TRACKED = 400, 25, (0.05, 0.1)


def state_at(step, params, averages, skipped=0):
    extra = {"skipped": jnp.int32(skipped)}
    return TrainState(step=jnp.int32(step), params=params, ema=averages, opt_state=(), extra=extra)


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    """(workdir, path): a random walk of the parameters, tracked by two averages with snapshots."""
    workdir = tmp_path_factory.mktemp("walk")
    path = np.random.default_rng(0).normal(size=(STEPS, 16, 3)).cumsum(0).astype(np.float32)
    rules = ema.rules((), False, TRACKED)
    averages = {name: {"w": jnp.zeros((16, 3))} for name in rules}
    update = jax.jit(lambda averages, params, k: ema.update_all(averages, params, rules, k))
    hook = posthoc.snapshot_hook(workdir, EVERY, TRACKED)
    for k in range(STEPS):
        averages = update(averages, {"w": path[k]}, jnp.int32(k))
        loop.run_hooks((hook,), k + 1, state_at(k + 1, {"w": path[k]}, averages), check=None)
    return workdir, path


def like(sharding=None):
    sharding = sharding or replicated(data_mesh(jax.devices()[:1]))
    return {"w": jax.ShapeDtypeStruct((16, 3), jnp.float32, sharding=sharding)}


def reconstructed(workdir, sigma_rel, step=None, sharding=None):
    fit = posthoc.fit(posthoc.read_snapshots(workdir), sigma_rel, step)
    return fit, posthoc.reconstruct(workdir, fit, like(sharding))["w"]


@pytest.mark.parametrize("sigma_rel, step", itertools.product(TRACKED, (STEPS, 100, EVERY)))
def test_an_average_that_was_tracked_is_its_snapshot(walk, sigma_rel, step):
    workdir, _ = walk
    fit, average = reconstructed(workdir, sigma_rel, step)
    name = ema.power_name(sigma_rel)
    assert [(found.step, found.updates, found.name) for found in fit.snapshots] == [(step, step, name)]
    assert fit.residual < 1e-6
    snapshots = Checkpoints(workdir, read_only=True, folder="ema_snapshots")
    assert equal(average, snapshots.restore_weights(step, name, like())["w"])


# Error over the distance between the average and the parameters it ends at.
NEAR = {0.04: 0.01, 0.07: 0.002, 0.13: 0.002, 0.2: 0.01, 0.25: 0.04}


@pytest.mark.parametrize("sigma_rel, step", itertools.product(NEAR, (STEPS, 300)))
def test_an_average_that_was_not_tracked_is_near_the_one_that_would_have_been(walk, sigma_rel, step):
    workdir, path = walk
    fit, average = reconstructed(workdir, sigma_rel, step)
    direct = closed_form(path[:step], sigma_rel)
    error = np.linalg.norm(average - direct) / np.linalg.norm(path[step - 1] - direct)
    assert error < NEAR[sigma_rel] and error < fit.residual
    assert {found.step for found in fit.snapshots} <= set(range(EVERY, step + 1, EVERY))


def test_an_end_between_snapshots_takes_the_next_one_too_and_says_how_far_it_is(walk):
    workdir, path = walk
    fit, average = reconstructed(workdir, 0.2, 310)
    direct = closed_form(path[:310], 0.2)
    assert np.linalg.norm(average - direct) < fit.residual * np.linalg.norm(path[309] - direct)
    assert max(found.step for found in fit.snapshots) == 325 and 0.1 < fit.residual < 0.2


def test_parameters_at_rest_are_their_own_average():
    snapshots = [posthoc.Snapshot(k, k, "power_0.05", 0.05) for k in (10, 20, 30)]
    fit = posthoc.fit(snapshots, 0.07)
    assert fit.residual > 0.05 and np.isclose(fit.weights.sum(), 1, rtol=1e-12)


def test_time_counts_updates_not_steps():
    """Of 40 steps the first 20 were skipped: the width is over the 20 others."""
    late, young = ([posthoc.Snapshot(k + n, k, f"power_{s}", s) for k in (5, 10, 15, 20) for s in TRACKED]
                   for n in (20, 0))  # fmt: skip
    assert np.allclose(posthoc.fit(late, 0.08, 40).weights, posthoc.fit(young, 0.08, 20).weights)


def test_many_snapshots_of_many_widths_are_summed_with_small_weights():
    widths = (0.05, 0.1, 0.15, 0.2)  # nearly dependent: the Gram matrix has condition 1e18 and solving it gives 1e2
    fit = posthoc.fit([posthoc.Snapshot(k, k, "", s) for k in range(1000, 129_000, 1000) for s in widths], 0.13)
    assert fit.residual < 1e-6 and np.abs(fit.weights).sum() < 3


@pytest.mark.parametrize(
    "message, sigma_rel, step",
    [
        ("step=401 must be from 1 to 400, the last snapshot", 0.1, 401),
        ("step=0 must be from 1 to 400", 0.1, 0),
        ("sigma_rel=0.3 must lie between 0 and 0.2887", 0.3, None),
        ("do not express sigma_rel=0.005 at step 400: the fit's residual is 0.[5-9]", 0.005, None),
        ("do not express sigma_rel=0.1 at step 3", 0.1, 3),
    ],
)
def test_what_the_snapshots_do_not_express_is_refused(walk, message, sigma_rel, step):
    with pytest.raises(ValueError, match=message) as refused:
        reconstructed(walk[0], sigma_rel, step)
    assert "\n" not in str(refused.value)


def test_without_snapshots_there_is_nothing_to_average(tmp_path):
    with pytest.raises(ValueError, match="no ema_snapshots in .*ema.sigma_rels and ema.snapshot_every"):
        posthoc.read_snapshots(tmp_path)


def test_an_average_comes_sharded_as_asked(walk):
    split = NamedSharding(data_mesh(), P("data"))
    average = reconstructed(walk[0], 0.13, sharding=split)[1]
    assert average.sharding == split and average.addressable_shards[0].data.shape == (2, 3)
    assert equal(average, reconstructed(walk[0], 0.13)[1])


def test_an_average_made_afterwards_is_found_by_its_name_and_others_are_listed(walk, tmp_path):
    fit = posthoc.fit(posthoc.read_snapshots(walk[0]), 0.13)
    for value in (1.0, 2.0):  # made again, it replaces the first
        posthoc.write(tmp_path, fit, {"w": jnp.full((16, 3), value)})
    found = posthoc.holding(tmp_path, "posthoc_0.13")
    assert found.steps() == [STEPS] and np.all(found.restore_weights(STEPS, "posthoc_0.13", like())["w"] == 2)
    facts = found.facts(STEPS)
    assert facts["residual"] == fit.residual and [*fit.snapshots[0], fit.weights[0]] in facts["snapshots"]
    run = Checkpoints(tmp_path)
    run.save(7, state_at(7, {"w": jnp.zeros(1)}, {"0.9": {"w": jnp.zeros(1)}}))
    run.wait()
    with pytest.raises(ValueError, match="no average 'posthoc_0.2' in .*choose from posthoc_0.13, 0.9, raw, or"):
        posthoc.holding(tmp_path, "posthoc_0.2")


def train(workdir, stop=None):
    """Ten steps with a checkpoint at each fourth and a snapshot at each second; `stop` kills it before that one."""
    fresh, step = make(sigma_rels=(0.1,))
    checkpoints = Checkpoints(workdir)
    start = checkpoints.latest() or 0
    state = checkpoints.restore(start, fresh) if start else fresh
    posthoc.drop_snapshots_after(workdir, start)

    def train_step(state, frozen, batch):
        if int(state.step) == stop:
            raise KeyboardInterrupt
        return step(state, frozen, batch)

    batches = ({name: jnp.asarray(rows) for name, rows in batch_at(k).items()} for k in range(start, 10))
    hooks = (posthoc.snapshot_hook(workdir, 2, (0.1,)),)
    options = loop.Options(steps=10, batch_size=8, log_every=5, checkpoint_every=4, max_skipped=3)
    loop.train(state, None, train_step, batches, checkpoints, Silent(), workdir, hooks, options)


def snapshots_of(workdir):
    reader = Checkpoints(workdir, read_only=True, folder="ema_snapshots")
    like = jax.eval_shape(lambda: make()[0].params)
    whole = jax.tree.map(lambda x: x.update(sharding=replicated(data_mesh(jax.devices()[:1]))), like)
    return {step: (reader.facts(step), reader.restore_weights(step, "power_0.1", whole)) for step in reader.steps()}


@pytest.mark.parametrize("stop, lost", [(7, []), (4, [4]), (9, [8])])
def test_a_run_that_is_killed_and_resumed_leaves_the_snapshots_of_the_uninterrupted_run(tmp_path, stop, lost):
    train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", stop)
    for step in lost:  # killed between the checkpoint and the snapshot of the same step
        shutil.rmtree(tmp_path / "cut" / "ema_snapshots" / str(step))
    train(tmp_path / "cut")
    whole, cut = snapshots_of(tmp_path / "whole"), snapshots_of(tmp_path / "cut")
    assert list(cut) == list(whole) == [2, 4, 6, 8, 10] and cut[10][0] == {
        "updates": 10,
        "sigma_rels": {"power_0.1": 0.1},
    }
    assert all(cut[step][0] == whole[step][0] and equal(cut[step][1], whole[step][1]) for step in whole)


def test_a_run_that_goes_on_from_an_earlier_step_drops_the_snapshots_past_it(tmp_path):
    for step in (2, 4, 6):
        posthoc.save(tmp_path, "ema_snapshots", step, {"power_0.1": {"w": jnp.zeros(1)}}, {})
    posthoc.drop_snapshots_after(tmp_path, 4)
    assert posthoc.snapshot_steps(tmp_path) == [2, 4]


WRITER = """
import sys
import jax.numpy as jnp
from training import posthoc
from training.state import TrainState
hook = posthoc.snapshot_hook(sys.argv[1], 1, (0.1,))
for step in range(1, 10**6):
    averages = {"power_0.1": {"w": jnp.full((2**20,), step, jnp.float32)}}
    hook.run(step, TrainState(jnp.int32(step), {}, averages, (), {"skipped": jnp.int32(0)}), None)
    print(step, flush=True)
"""


def test_kill_9_in_a_write_leaves_no_half_snapshot(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": ""}
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    while int(writer.stdout.readline()) < 5:
        pass
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    found = posthoc.read_snapshots(tmp_path)
    assert [snapshot.updates for snapshot in found] == list(range(1, len(found) + 1)) and len(found) >= 5
    reader = Checkpoints(tmp_path, read_only=True, folder="ema_snapshots")
    whole = {"w": jax.ShapeDtypeStruct((2**20,), np.float32, sharding=replicated(data_mesh(jax.devices()[:1])))}
    for snapshot in found:
        assert np.all(reader.restore_weights(snapshot.step, "power_0.1", whole)["w"] == snapshot.step)
