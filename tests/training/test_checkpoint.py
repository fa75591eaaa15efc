"""Laws 13, 14, 16, 17 of checkpoints."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from problem import equal, make, run

from training.checkpoint import Checkpoints
from training.sharding import data_mesh, replicated


def laid_out(tree, sharding):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def save(tmp_path, state, step=1, **options):
    checkpoints = Checkpoints(tmp_path, **options)
    checkpoints.save(step, state)
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("n_before, n_after", [(1, 1), (8, 1), (1, 8)])
def test_a_checkpoint_restores_bit_for_bit_on_another_mesh(tmp_path, n_before, n_after):
    state, _ = run(*make(), 0, 3)
    state = jax.device_put(state, replicated(data_mesh(jax.devices()[:n_before])))
    save(tmp_path, state)
    mesh = data_mesh(jax.devices()[:n_after])
    restored = Checkpoints(tmp_path).restore(1, laid_out(state, replicated(mesh)))
    assert equal(restored, state) and jax.tree.structure(restored) == jax.tree.structure(state)
    assert len(restored.params["w"].sharding.device_set) == n_after


def test_a_sharded_leaf_restores_whole(tmp_path):
    mesh = data_mesh()
    state, _ = make()
    state = state.replace(params={"w": jax.device_put(jnp.arange(16.0), NamedSharding(mesh, P("data")))})
    save(tmp_path, state)
    like = laid_out(state, replicated(data_mesh(jax.devices()[:1])))
    assert equal(Checkpoints(tmp_path).restore(1, like).params, state.params)


def test_restored_weights_are_one_average_or_the_raw_parameters(tmp_path):
    state, _ = run(*make((0.9, 0.5)), 0, 3)
    save(tmp_path, state)
    reader = Checkpoints(tmp_path, read_only=True)
    like = laid_out(state.params, replicated(data_mesh(jax.devices()[:1])))
    assert equal(reader.restore_weights(1, "0.5", like), state.ema["0.5"])
    assert equal(reader.restore_weights(1, "raw", like), state.params)
    with pytest.raises(ValueError, match="'0.7'.*0.5, 0.9, raw"):
        reader.restore_weights(1, "0.7", like)
    with pytest.raises(ValueError, match="no checkpoint 9.*there are: 1"):
        reader.restore_weights(9, "0.5", like)


def test_a_leaf_that_is_missing_unexpected_or_of_another_shape_is_named(tmp_path):
    state, _ = make()
    checkpoints = save(tmp_path, state)
    like = laid_out(state, replicated(data_mesh(jax.devices()[:1])))
    w = like.params["w"]
    wrong = {
        "missing params/b": {"w": w, "b": w},
        "unexpected params/w": {"v": w},
        r"params/w is \(3, 2\), not \(4, 2\)": {"w": jax.ShapeDtypeStruct((4, 2), w.dtype, sharding=w.sharding)},
    }
    for message, params in wrong.items():
        with pytest.raises(ValueError, match=message):
            checkpoints.restore(1, like.replace(params=params))


@pytest.mark.parametrize("name, length", [("_METADATA", 0), ("_METADATA", 20), ("manifest.ocdbt", 20)])
def test_a_damaged_checkpoint_is_named_in_one_line(tmp_path, name, length):
    state, _ = make()
    save(tmp_path, state).close()
    file = tmp_path / "checkpoints" / "1" / "default" / name
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ValueError, match="checkpoints/1 is damaged") as refused:
        Checkpoints(tmp_path, read_only=True).restore(1, laid_out(state, replicated(data_mesh(jax.devices()[:1]))))
    assert "\n" not in str(refused.value)


def test_the_newest_are_kept_and_for_good_those_at_multiples(tmp_path):
    state, _ = make()
    checkpoints = Checkpoints(tmp_path, keep=2, keep_every=5)
    for step in range(3, 13):
        checkpoints.save(step, state)
    checkpoints.wait()
    assert sorted(checkpoints.manager.all_steps()) == [5, 10, 11, 12] and checkpoints.latest() == 12


def test_saving_a_step_twice_is_nothing_and_reading_nowhere_is_an_error(tmp_path):
    state, _ = make()
    checkpoints = save(tmp_path / "a", state)
    checkpoints.save(1, state)
    checkpoints.wait()
    with pytest.raises(ValueError, match="no checkpoints in"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


WRITER = """
import sys
import jax.numpy as jnp
from training.checkpoint import Checkpoints
from training.state import TrainState
checkpoints = Checkpoints(sys.argv[1])
for step in range(1, 10**6):
    big = {"w": jnp.full((2**20,), step, jnp.float32)}
    checkpoints.save(step, TrainState(jnp.int32(step), big, {"0.9": big}, (), {"skipped": jnp.int32(step)}))
    print(step, flush=True)
"""


def test_kill_9_in_a_write_leaves_the_last_whole_checkpoint(tmp_path):
    root = pathlib.Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root), "XLA_FLAGS": ""}
    for attempt in range(2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / str(attempt))],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        for _ in range(4 + attempt):
            writer.stdout.readline()
        time.sleep(0.013 * attempt)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        checkpoints = Checkpoints(tmp_path / str(attempt))
        step = checkpoints.latest()
        like = {"w": jax.ShapeDtypeStruct((2**20,), np.float32, sharding=replicated(data_mesh(jax.devices()[:1])))}
        assert np.all(np.asarray(checkpoints.restore_weights(step, "raw", like)["w"]) == step)
        assert np.all(np.asarray(checkpoints.restore_weights(step, "0.9", like)["w"]) == step)
