"""From the start of the process to the first training step of the demo, compilation cache empty and full.

    python -m benchmarks.start

Goals on 2 cores: 25 s, and 10 s.
"""

import pathlib
import subprocess
import sys
import tempfile
import time

from absl import app

TRAIN = [sys.executable, "main.py", "--config=configs/digits.py", "--config.train.steps=1000000"]


def seconds_to_first_step(workdir: pathlib.Path, cache: pathlib.Path) -> float:
    """Until the first report stands in heartbeat.json; then the run is killed."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [*TRAIN, f"--workdir={workdir}", f"--compilation_cache={cache}"], stderr=subprocess.DEVNULL
    )
    while not (workdir / "heartbeat.json").exists() and process.poll() is None:
        time.sleep(0.02)
    seconds = time.perf_counter() - began
    process.kill()
    process.wait()
    return seconds


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as folder:
        cache = pathlib.Path(folder) / "cache"
        for name in ("empty cache", "full cache"):
            workdir = pathlib.Path(folder) / name.replace(" ", "_")
            print(f"{name}: {seconds_to_first_step(workdir, cache):.1f} s to the first step", flush=True)


if __name__ == "__main__":
    app.run(main)
