"""Laws 14 to 17 over two processes: exact resume when one is killed, and all stop at one step when one is asked to."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from problem import batch_at, equal, make, run

from training import hosts
from training.checkpoint import Checkpoints

STEPS = 20
SCRIPT = pathlib.Path(__file__).parent / "two_processes.py"


class Job:
    """Two processes of one device each. What waits is killed: after jax.distributed SIGTERM does not."""

    def __init__(self, workdir, *options):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {**os.environ, "XLA_FLAGS": ""}
        self.processes = [
            subprocess.Popen(
                [sys.executable, str(SCRIPT), str(workdir), str(port), "2", str(i), str(STEPS), *options],
                env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for i in range(2)
        ]  # fmt: skip

    def step(self, n: int):
        """Waits until the second process is about to take its n-th step."""
        while n:
            line = self.processes[1].stdout.readline()  # Gloo says something in between
            assert line, self.processes[1].stderr.read()[-3000:]
            n -= line == "step\n"
        return self

    def end(self, grace: float = 300) -> list[int]:
        """Exit statuses; what has not left after `grace` seconds is killed."""
        deadline = time.monotonic() + grace
        for process in self.processes:
            try:
                process.communicate(timeout=max(deadline - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        return [process.returncode for process in self.processes]


def final(workdir):
    return Checkpoints(workdir, read_only=True).restore(STEPS, make()[0])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("whole")
    assert Job(workdir).end() == [0, 0]
    return workdir


def test_two_processes_train_as_one_does(whole):
    state = run(*make(), 0, STEPS)[0]
    for own, other in zip(*map(jax.tree.leaves, (final(whole), state)), strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-4, atol=1e-6)


def test_each_process_holds_its_half_of_the_batch_and_one_writes(whole):
    halves = [np.load(whole / f"seen_{i}.npy") for i in range(2)]
    np.testing.assert_array_equal(np.concatenate(halves), batch_at(0)["x"])
    steps = [json.loads(line)["step"] for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 5, 10, 15, 20] and len(list(whole.glob("events*"))) == 1


def test_processes_that_share_layers_hold_the_same_batch(tmp_path):
    assert Job(tmp_path, "tensor").end() == [0, 0]
    for i in range(2):
        np.testing.assert_array_equal(np.load(tmp_path / f"seen_{i}.npy"), batch_at(0)["x"])


def test_a_process_that_is_killed_leaves_a_checkpoint_from_which_two_go_on_bit_for_bit(tmp_path, whole):
    job = Job(tmp_path).step(8)
    job.processes[1].send_signal(signal.SIGKILL)
    assert 0 not in job.end(grace=5)
    assert Checkpoints(tmp_path).latest() == 5
    assert Job(tmp_path).end() == [0, 0]
    assert equal(final(tmp_path), final(whole))


@pytest.mark.parametrize("asked, step", [(0, 3), (1, 12)])
def test_when_one_is_asked_to_stop_both_save_the_same_step(tmp_path, whole, asked, step):
    job = Job(tmp_path, "data", str(step)).step(step)  # 12: after the hook of step 10
    job.processes[asked].send_signal(signal.SIGTERM)
    assert job.end() == [128 + signal.SIGTERM] * 2
    assert step <= Checkpoints(tmp_path).latest() < STEPS
    assert Job(tmp_path).end() == [0, 0]
    assert equal(final(tmp_path), final(whole))


@pytest.mark.parametrize(
    "environment, tpu_vm, expected",
    [
        ({}, False, False),
        ({}, True, True),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_JOB_ID": "7"}, False, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, False, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({"JAX_COORDINATOR_ADDRESS": "a:1"}, False, True),
    ],
)
def test_a_job_of_several_is_known_by_its_environment(environment, tpu_vm, expected):
    assert hosts.started_as_one(environment, tpu_vm) is expected


def test_half_an_address_is_refused():
    with pytest.raises(ValueError, match="give all three, or none"):
        hosts.connect("127.0.0.1:1", 2, None)
