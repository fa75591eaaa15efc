"""The host's own work in a training step: loop, metrics and polling, around a device function that does nothing.

    python -m benchmarks.host

Prints the mean and the percentiles of a step in microseconds, with the input from memory and with one batch reused.
Goal: at most 500.
"""

import itertools
import tempfile
import time

import jax
import numpy as np
from absl import app, logging
from etils import epath

from configs import digits
from experiment import build
from training import loop
from training.checkpoint import Checkpoints
from training.metrics import Writer
from training.objective import METRIC_LABELS

STEPS = 3000


def measure(batches, experiment, state, sums, workdir) -> np.ndarray:
    """[STEPS] seconds from one call of the train step to the next."""
    calls = []

    def nothing(state, frozen, batch):
        calls.append(time.perf_counter())
        return state, sums

    options = loop.Options(STEPS, 128, 100, 10**9, 50, metric_labels=METRIC_LABELS)
    writer, checkpoints = Writer(workdir), Checkpoints(workdir)
    checkpoints.save = lambda step, state: None
    loop.train(state, None, nothing, batches, checkpoints, writer, workdir, (), options)
    return np.diff(calls)


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    experiment = build(digits.get_config())
    state, batches = experiment.init(), experiment.batches(0)
    batch = next(batches)
    _, sums = experiment.train_step(jax.tree.map(lambda x: x.copy(), state), None, batch)
    jax.block_until_ready(sums)
    print(f"{'input':<12}{'mean':>8}{'p50':>8}{'p99':>8}   microseconds a step, {STEPS} steps")
    for name, source in {"one batch": itertools.repeat(batch), "from memory": batches}.items():
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(source, experiment, state, sums, epath.Path(folder))
        row = [seconds.mean(), *np.percentile(seconds, [50, 99])]
        print(f"{name:<12}" + "".join(f"{1e6 * value:8.0f}" for value in row))


if __name__ == "__main__":
    app.run(main)
