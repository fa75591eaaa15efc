"""What a checkpoint costs: how long a save holds the training up, how long it then writes, and a restore.

    python -m benchmarks.checkpoints [--config=configs/cifar10.py] [--folder=DIR]

The whole state of a config: parameters, optimiser, averages. A save holds the loop up until the state may be donated;
the rest is written beside the next steps. Told are the first and the median of --rounds, and what share of the time
between two saves (`checkpoint.every` steps) it is held up, at the measured pace of a train step.
"""

import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging
from ml_collections import config_flags

from benchmarks.rows import batch_of
from experiment import build
from training.checkpoint import Checkpoints

CONFIG = config_flags.DEFINE_config_file("config", "configs/digits.py")
FOLDER = flags.DEFINE_string("folder", None, "where to write; default: a temporary folder")
ROUNDS = flags.DEFINE_integer("rounds", 5, "saves and restores", lower_bound=2)
STEPS = flags.DEFINE_integer("steps", 5, "train steps that are timed; 0 for none, and no share", lower_bound=0)


def seconds_of(call):
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def saves(checkpoints: Checkpoints, state, rounds: int) -> tuple[list[float], list[float]]:
    """Seconds that each save holds up, and then writes."""
    held, written = [], []
    for step in range(rounds):
        held.append(seconds_of(lambda step=step: checkpoints.save(step, state))[0])
        written.append(seconds_of(checkpoints.wait)[0])
    return held, written


def step_seconds(config, experiment, state, steps: int):
    """(seconds of a train step, the state after them); the first, which compiles, is not counted."""
    batch, times = batch_of(config, experiment, config.train.batch_size), []
    for _ in range(steps + 1):
        took, (state, sums) = seconds_of(lambda state=state: experiment.train_step(state, None, batch))
        times.append(took + seconds_of(lambda sums=sums: jax.block_until_ready(sums))[0])
    return float(np.median(times[1:])), state


def main(argv):
    del argv
    logging.set_verbosity(logging.WARNING)
    config = CONFIG.value
    experiment = build(config)
    state = jax.block_until_ready(experiment.init())
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state) if hasattr(leaf, "itemsize"))
    pace, state = step_seconds(config, experiment, state, STEPS.value) if STEPS.value else (None, state)
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
        checkpoints = Checkpoints(folder)
        held, written = saves(checkpoints, state, ROUNDS.value)
        last = checkpoints.latest()
        restored = [seconds_of(lambda: jax.block_until_ready(checkpoints.restore(last, experiment.abstract)))[0]
                    for _ in range(ROUNDS.value)]  # fmt: skip
        checkpoints.close()
    print(f"state {size / 2**20:.1f} MiB; seconds, the first and the median of {ROUNDS.value}")
    for name, times in {"held up": held, "written beside": written, "restored": restored}.items():
        print(f"{name:<16}{times[0]:8.3f}{np.median(times):8.3f}")
    if pace:
        share = np.median(held) / (config.checkpoint.every * pace)
        print(
            f"a step takes {pace:.3f} s, a save every {config.checkpoint.every} steps: held up {share:.2%} of the time"
        )


if __name__ == "__main__":
    app.run(main)
