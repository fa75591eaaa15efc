"""Is a training the same on 1, 2 and 4 processes, and does SIGTERM in any phase lose nothing?

    python -m benchmarks.processes [--phases]

Processes of one device each, over loopback. First the loss, the trivial loss and the gradient's norm of the first step
on 1, 2 and 4 processes, and the largest difference from one. With --phases: on one and on two processes, SIGTERM to
the last while it compiles, steps, evaluates and saves; each run is resumed, and its last checkpoint compared bit for
bit with that of the run that was not stopped. Exits with status 1 on any difference.
"""

import json
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time

import numpy as np
from absl import app, flags, logging

from configs import digits
from experiment import build
from training.checkpoint import Checkpoints, as_dict
from training.sharding import make_mesh, named_leaves

flags.DEFINE_bool("phases", False, "SIGTERM in every phase too.")
FLAGS = flags.FLAGS

STEPS = 20
SMALL = {"model.multipliers": "1,", "model.attention": "()", "train.steps": STEPS, "log.every": 1,
         "log.samples_every": 0, "checkpoint.every": 5}  # fmt: skip
# {phase: (what a process says when it begins, seconds from then to the signal, keys that make it long)}
PHASES = {
    "compiling": (r"set up in", 1.0, {}),
    "stepping": (r"step 7/", 0.0, {"log.validation_every": 0}),
    "evaluating": (r"step 10/", 0.3, {"log.validation_every": 10, "evaluation.validation_images": 297,
                                      "evaluation.validation_draws": 50}),
    "saving": (r"step 5/", 0.01, {"log.validation_every": 0}),
}  # fmt: skip


class Job:
    """main.py as so many processes."""

    def __init__(self, count: int, workdir, keys: dict):
        words = [f"--config.{key}={value}" for key, value in (SMALL | keys).items()]
        words = [sys.executable, "main.py", "--config=configs/digits.py:tiny", f"--workdir={workdir}", *words]
        if count > 1:
            words += [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={count}"]
        self.processes = [
            subprocess.Popen([*words, *([f"--process_id={i}"] if count > 1 else [])], stderr=subprocess.PIPE, text=True)
            for i in range(count)
        ]

    def wait_for(self, pattern: str) -> None:
        """Until the first process has said it."""
        for line in self.processes[0].stderr:
            if re.search(pattern, line):
                return
        raise RuntimeError(f"the training ended before it said {pattern!r}")

    def end(self) -> list[int]:
        for process in self.processes:
            process.communicate(timeout=1200)
        return [process.returncode for process in self.processes]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def first_step(workdir: pathlib.Path) -> dict[str, float]:
    line = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[0])
    return {name: line[name] for name in ("loss", "trivial_loss", "gradient_norm")}


def final(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint."""
    config = digits.get_config("tiny")
    config.model.update(multipliers=(1,), attention=())
    like = build(config, make_mesh(config.mesh.to_dict())).abstract
    state = Checkpoints(workdir, read_only=True).restore(STEPS, like)
    return {name: np.asarray(leaf) for name, leaf in named_leaves(as_dict(state)).items()}


def compare_counts(folder: pathlib.Path) -> bool:
    print("processes  " + "  ".join(f"{name:>14}" for name in ("loss", "trivial_loss", "gradient_norm")))
    found = {}
    for count in (1, 2, 4):
        Job(count, folder / f"on_{count}", {"log.validation_every": 0}).end()
        found[count] = first_step(folder / f"on_{count}")
        print(f"{count:9}  " + "  ".join(f"{value:14.9f}" for value in found[count].values()), flush=True)
    largest = max(abs(found[n][name] / found[1][name] - 1) for n in (2, 4) for name in found[1])
    print(f"largest relative difference from one process: {largest:.1e}")
    return largest < 1e-5


def stop_in(phase: str, count: int, folder: pathlib.Path) -> bool:
    pattern, after, keys = PHASES[phase]
    whole, cut = folder / f"whole_{phase}_{count}", folder / f"cut_{phase}_{count}"
    Job(count, whole, keys).end()
    job = Job(count, cut, keys)
    job.wait_for(pattern)
    time.sleep(after)
    job.processes[-1].send_signal(signal.SIGTERM)
    statuses = job.end()
    saved = Checkpoints(cut).latest() if (cut / "checkpoints").exists() else None
    Job(count, cut, keys).end()
    expected, found = final(whole), final(cut)
    same = all(np.array_equal(found[name], leaf) for name, leaf in expected.items())
    print(f"SIGTERM while {phase}, {count} process{'es' * (count > 1)}: left with {statuses}, resumed from {saved}: "
          f"{'equal' if same else 'DIFFERENT'}", flush=True)  # fmt: skip
    return same and set(statuses) == {128 + signal.SIGTERM}


def main(argv):
    del argv
    logging.set_verbosity(logging.ERROR)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        good = compare_counts(folder)
        if FLAGS.phases:
            good &= all([stop_in(phase, count, folder) for count in (1, 2) for phase in PHASES])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    app.run(main)
