"""Is resume exact? Runs that are killed at random times and resumed, against the run that was not.

    python -m benchmarks.resume [--kills=10]

Half the kills are SIGKILL, half SIGTERM, at times drawn over the run's length. Each killed run is resumed to the end
and its last checkpoint compared bit for bit: parameters, optimiser, averages, counters. Every update has gone through
the batches and the noise, so that one other example in one step would show. Exits with status 1 on any difference.
"""

import hashlib
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
from absl import app, flags, logging

from configs import digits
from experiment import build
from training.checkpoint import Checkpoints, as_dict

flags.DEFINE_integer("kills", 10, "How many runs are killed.", lower_bound=1)
flags.DEFINE_integer("seed", 0, "Of the times at which they are.")
FLAGS = flags.FLAGS

OVERRIDES = {"train.steps": 300, "checkpoint.every": 20, "log.every": 20, "log.samples_every": 100}
TRAIN = [sys.executable, "main.py", "--config=configs/digits.py:tiny"]
TRAIN += [f"--config.{key}={value}" for key, value in OVERRIDES.items()]


def digest(workdir: pathlib.Path) -> str:
    """A hash of every array of the last checkpoint, names and types included."""
    experiment = build(digits.get_config("tiny"))
    state = Checkpoints(workdir, read_only=True).restore(OVERRIDES["train.steps"], experiment.abstract)
    total = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(as_dict(state)):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def train(workdir: pathlib.Path, kill_after: float | None = None, signum: int = signal.SIGKILL) -> bool:
    """Whether the run ended well by itself; with kill_after, the signal is sent after so many seconds."""
    process = subprocess.Popen([*TRAIN, f"--workdir={workdir}"], stderr=subprocess.DEVNULL)
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
    return process.wait() == 0


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    rng = random.Random(FLAGS.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        train(whole)  # fills the compilation cache
        again = pathlib.Path(folder) / "again"
        began = time.time()
        train(again)
        length = time.time() - began
        expected = digest(whole)
        bad = int(digest(again) != expected)
        print(f"uninterrupted twice: {'equal' if not bad else 'DIFFERENT'}, {length:.1f} s")
        for k in range(FLAGS.kills):
            workdir = pathlib.Path(folder) / str(k)
            signum = (signal.SIGKILL, signal.SIGTERM)[k % 2]
            after = rng.uniform(0.2, 0.95) * length
            while train(workdir, after, signum):  # it was done before the signal: no test of anything
                shutil.rmtree(workdir)
                after *= 0.9
            saved = Checkpoints(workdir).latest() if (workdir / "checkpoints").exists() else None
            train(workdir)
            same = digest(workdir) == expected
            bad += not same
            verdict = "equal" if same else "DIFFERENT"
            print(f"{signal.Signals(signum).name} after {after:4.1f} s, resumed from {saved}: {verdict}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    app.run(main)
