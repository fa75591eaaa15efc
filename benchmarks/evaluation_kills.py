"""Does an evaluation that is killed and resumed give the same numbers? To the last digit, or this says where not.

    python -m benchmarks.evaluation_kills --workdir=runs/digits [--kills=10]

Evaluates the newest checkpoint once undisturbed, then over and over with SIGKILL or SIGTERM after a random number
of parts, each time resumed to the end, and compares every number but the seconds. Exits with status 1 on any
difference.
"""

import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from absl import app, flags

from modes.candidate import PART

flags.DEFINE_string("workdir", None, "A training with a checkpoint, of digits.", required=True)
flags.DEFINE_integer("kills", 10, "How many evaluations are killed.", lower_bound=1)
flags.DEFINE_integer("samples", 2000, "Images each of them draws, in parts of 250.")
flags.DEFINE_integer("seed", 0, "Of when they are.")
FLAGS = flags.FLAGS
LONGEST_DELAY = 0.3  # seconds: into the next part, or the statistics after the last


def drawn(out: pathlib.Path) -> int:
    """Parts of the samples on disk."""
    return len(list(out.glob("evaluation/samples_*/part_*.npy")))


def evaluate(out: pathlib.Path, kill_at: int | None = None, delay: float = 0.0, signum: int = signal.SIGKILL) -> None:
    """Runs it, killed `delay` seconds after `kill_at` parts are drawn, if it is not done by then."""
    command = [sys.executable, "main.py", "--mode=evaluate", f"--workdir={FLAGS.workdir}", f"--out={out}"]
    command += [
        f"--config.evaluation.samples={FLAGS.samples}",
        f"--config.sampling.batch_size={PART}",
        "--config.evaluation.evaluators=small_images",
        "--steps=20",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    if kill_at is not None:
        while process.poll() is None and drawn(out) < kill_at:
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signum)
    process.wait()


def numbers(out: pathlib.Path) -> dict[str, float]:
    results = json.loads((out / "evaluation.json").read_text())["results"]
    return {name: result["value"] for name, result in results.items() if name != "sampling_seconds"}


def main(argv):
    del argv
    chance, bad, parts = random.Random(FLAGS.seed), 0, FLAGS.samples // PART
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        evaluate(whole)
        expected = numbers(whole)
        print("undisturbed: " + ", ".join(f"{name} {value:.6g}" for name, value in expected.items()), flush=True)
        for k in range(FLAGS.kills):
            out, signum = pathlib.Path(folder) / str(k), (signal.SIGKILL, signal.SIGTERM)[k % 2]
            evaluate(out, chance.randint(0, parts), chance.uniform(0.0, LONGEST_DELAY), signum)
            if (out / "evaluation.json").exists():
                print("it was done before the kill: no test of anything")
                continue
            before = drawn(out)
            evaluate(out)
            same = numbers(out) == expected
            bad += not same
            print(f"{signum.name} with {before} of {parts} parts drawn: {'equal' if same else 'DIFFERENT'}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    app.run(main)
