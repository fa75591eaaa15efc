"""Does an evaluation that is killed and resumed give the same numbers? To the last digit, or this says where not.

    python -m benchmarks.evaluation_kills --workdir=runs/digits [--kills=10]

Evaluates the newest checkpoint once undisturbed, then over and over with SIGKILL or SIGTERM at random times, each
time resumed to the end, and compares every number but the seconds. Exits with status 1 on any difference.
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

flags.DEFINE_string("workdir", None, "A training with a checkpoint, of digits.", required=True)
flags.DEFINE_integer("kills", 10, "How many evaluations are killed.", lower_bound=1)
flags.DEFINE_integer("samples", 2000, "Images each of them draws.")
flags.DEFINE_integer("seed", 0, "Of the times at which they are.")
FLAGS = flags.FLAGS


def evaluate(out: pathlib.Path, kill_after: float | None = None, signum: int = signal.SIGKILL) -> int:
    """Runs it, killed after so many seconds if it is not done by then. Returns the parts that were on disk before."""
    parts = len(list(out.glob("evaluation/samples_*/part_*")))
    command = [sys.executable, "main.py", "--mode=evaluate", f"--workdir={FLAGS.workdir}", f"--out={out}"]
    command += [
        f"--config.evaluation.samples={FLAGS.samples}",
        "--config.evaluation.evaluators=small_images",
        "--steps=20",
    ]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    if kill_after is not None:
        try:
            process.wait(kill_after)
        except subprocess.TimeoutExpired:
            process.send_signal(signum)
    process.wait()
    return parts


def numbers(out: pathlib.Path) -> dict[str, float]:
    results = json.loads((out / "evaluation.json").read_text())["results"]
    return {name: result["value"] for name, result in results.items() if name != "sampling_seconds"}


def main(argv):
    del argv
    times, bad = random.Random(FLAGS.seed), 0
    with tempfile.TemporaryDirectory() as folder:
        whole = pathlib.Path(folder) / "whole"
        evaluate(whole)  # fills the compilation cache
        (whole / "evaluation.json").unlink()
        began = time.time()
        evaluate(whole)
        length, expected = time.time() - began, numbers(whole)
        print(f"undisturbed: {length:.1f} s, {', '.join(f'{name} {value:.6g}' for name, value in expected.items())}")
        for k in range(FLAGS.kills):
            out, signum = pathlib.Path(folder) / str(k), (signal.SIGKILL, signal.SIGTERM)[k % 2]
            after = times.uniform(0.3, 1.0) * length
            evaluate(out, after, signum)
            if (out / "evaluation.json").exists():
                print(f"after {after:4.1f} s it was done: no test of anything")
                continue
            parts = evaluate(out)
            same = numbers(out) == expected
            bad += not same
            verdict = "equal" if same else "DIFFERENT"
            print(f"{signum.name} after {after:4.1f} s, {parts} parts were drawn: {verdict}", flush=True)
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    app.run(main)
