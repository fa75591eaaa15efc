"""Laws 14, 16, 19 of the loop: what it reads, when it saves, and how it stops."""

import json
import os
import signal
import time

import jax.numpy as jnp
import numpy as np
import pytest
from problem import batch_at, equal, make, run

from training import loop
from training.checkpoint import Checkpoints
from training.interrupt import Interrupt, Interrupted
from training.loop import Diverged, Hook, Options
from training.metrics import Writer


def batches(start):
    step = start
    while True:
        yield {name: jnp.asarray(rows) for name, rows in batch_at(step).items()}
        step += 1


def train(tmp_path, steps=10, hooks=(), train_step=None, state=None, every=4, log=3, max_skipped=3, **options):
    fresh, step = make()
    state = fresh if state is None else state
    checkpoints = Checkpoints(tmp_path)
    writer = Writer(tmp_path, int(state.step))
    options = Options(steps, 8, log, every, max_skipped, **options)
    data = batches(int(state.step))
    try:
        return loop.train(state, None, train_step or step, data, checkpoints, writer, tmp_path, hooks, options)
    finally:
        writer.close()


def lines(tmp_path):
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def restore(tmp_path, step):
    return Checkpoints(tmp_path).restore(step, make()[0])


def test_the_checkpoint_called_k_holds_k_updates(tmp_path):
    train(tmp_path)
    for k in (8, 10):
        assert equal(restore(tmp_path, k), run(*make(), 0, k)[0])


def test_saved_killed_and_resumed_equals_uninterrupted(tmp_path):
    train(tmp_path, steps=6)
    resumed = train(tmp_path, steps=11, state=restore(tmp_path, 6))
    assert equal(resumed, run(*make(), 0, 11)[0])
    assert [line["step"] for line in lines(tmp_path)] == [1, 3, 6, 7, 9, 11]


class Device:
    """An output that may be waited for at any time, and read only in a log window."""

    open = False

    def __init__(self, value):
        self.value = np.array(value, np.float32)

    def block_until_ready(self):
        return self

    def __array__(self, *args, **kwargs):
        assert Device.open, "a device-to-host read outside the log window"
        return self.value

    def __float__(self):
        return self.__array__().item()

    __bool__ = __int__ = __index__ = __float__


def test_nothing_is_read_from_the_device_between_log_windows(tmp_path, monkeypatch):
    write = loop.Report.write

    def opened(self, step):
        Device.open = True
        self.window = [{name: tuple(map(np.asarray, pair)) for name, pair in sums.items()} for sums in self.window]
        write(self, step)
        Device.open = False

    monkeypatch.setattr(loop.Report, "write", opened)
    state, _ = make()
    sums = {name: (Device(2), Device(1)) for name in ("loss", "skipped_in_a_row", "gradient_norm")}
    train(tmp_path, train_step=lambda state, frozen, batch: (state, sums), state=state)
    assert lines(tmp_path)[-1]["loss"] == 2.0


def test_non_finite_gradients_in_a_row_stop_the_run_and_name_the_window(tmp_path):
    state, step = make()
    bad = {name: jnp.asarray(rows) for name, rows in batch_at(0).items()}
    bad["x"] = bad["x"].at[0].set(jnp.nan)

    def poisoned(state, frozen, batch):
        return step(state, frozen, bad)

    with pytest.raises(Diverged, match=r"3 non-finite gradients in a row by step 3 \(window 2 to 3\)"):
        train(tmp_path, train_step=poisoned)
    assert equal(make()[0].params, state.params)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_in_a_step_saves_that_step(tmp_path, signum):
    state, step = make()

    def interrupted(state, frozen, batch):
        if int(state.step) == 5:
            os.kill(os.getpid(), signum)
            time.sleep(0.01)
        return step(state, frozen, batch)

    with pytest.raises(Interrupted):
        train(tmp_path, train_step=interrupted)
    assert equal(restore(tmp_path, 6), run(*make(), 0, 6)[0])
    assert signal.getsignal(signum) != Interrupt._note


def test_a_signal_in_a_hook_saves_and_the_hook_is_made_up_for(tmp_path):
    done, began = [], []

    def work(step, state, check):
        began.append(step)
        if len(began) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        check()
        done.append(step)

    hook = Hook(5, work, lambda step: step in done)
    with pytest.raises(Interrupted):
        train(tmp_path, hooks=(hook,))
    train(tmp_path, hooks=(hook,), state=restore(tmp_path, 5))
    assert began == [5, 5, 10] and done == [5, 10]


def test_a_hook_that_stands_is_not_repeated_at_a_start(tmp_path):
    calls = []
    hook = Hook(5, lambda step, state, check: calls.append(step), lambda step: True)
    train(tmp_path, steps=5, hooks=(hook,))
    train(tmp_path, steps=5, hooks=(hook,), state=restore(tmp_path, 5))
    assert calls == [5]


@pytest.mark.parametrize("first, steps", [(1, 3), (1, 8)])
def test_a_trace_is_written_and_a_resume_inside_its_window_goes_on(tmp_path, first, steps):
    train(tmp_path, steps=steps, profile_from=first)
    assert list(tmp_path.glob("profile/**/*.xplane.pb"))
    state = run(*make(), 0, 3)[0]
    assert int(train(tmp_path / "resumed", steps=9, profile_from=first, state=state).step) == 9


def test_metrics_are_totals_over_counts_of_the_window():
    window = [
        {"loss": (np.float32(6), np.int32(2)), "by": (np.array([1.0, 0.0]), np.array([1, 0]))},
        {"loss": (np.float32(1), np.int32(5)), "by": (np.array([5.0, 0.0]), np.array([1, 0]))},
    ]
    assert loop.means(window, {"by": ("low", "high")}) == {"loss": 1.0, "by/low": 3.0}


def test_the_first_step_of_a_start_is_told_apart(tmp_path):
    train(tmp_path)
    first, second = lines(tmp_path)[:2]
    assert first["first_step_seconds"] > 0 and "images_per_second" not in first
    assert second["images_per_second"] > 0
    assert json.loads((tmp_path / "heartbeat.json").read_text())["step"] == 10


def test_speed_is_told_by_its_parts_and_pauses_do_not_count(tmp_path):
    state, step = make()

    def slow(state, frozen, batch):
        time.sleep(0.02)
        return step(state, frozen, batch)

    def pause(step, state, check):
        time.sleep(0.5)

    hook = Hook(3, pause, lambda step: False)
    train(tmp_path, steps=12, log=6, hooks=(hook,), train_step=slow, state=state, flops=10**6, peak_flops=10**9)
    line = lines(tmp_path)[-1]
    # images a second, operations a second and MFU are one speed in three units
    assert line["flops_per_second"] == pytest.approx(line["images_per_second"] / 8 * 10**6)
    assert line["mfu"] == pytest.approx(line["flops_per_second"] / 10**9)
    assert 8 / line["images_per_second"] < 0.5 and line["step_seconds/most"] < 0.5
    assert 0.02 <= line["step_seconds/median"] <= line["step_seconds/p95"] <= line["step_seconds/most"]
    assert 0 <= line["input_wait"] < 1 and line["host_memory_peak"] > 10**7
    assert "device_memory_peak" not in line  # a CPU does not tell


def test_without_a_known_peak_there_is_no_mfu(tmp_path):
    train(tmp_path, steps=4)
    assert not {"mfu", "flops_per_second"} & lines(tmp_path)[-1].keys()
