"""Side by side with what a user would pick instead: the same work, the same machine, by turns.

    python -m benchmarks.run [--only='digits.*'] [--peers=PEERS/bin/python] [--out=FILE.json]

PEERS is an environment of its own (requirements-peers.txt says how it is made); without it, and where a peer lacks
something, the row says so. In each of --rounds rounds every side makes one call (as many as fill --least seconds)
after one that is not timed, in a process of its own, while the others wait. A ratio is the peer's time over ours in one
round; told are the median and the quartiles of the rounds. Seconds are for reading the ratio: they say little between
machines, or on a busy one.
"""

import json
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import app, flags

import huge_pages
from benchmarks.rows import Row, rows

ONLY = flags.DEFINE_string("only", "", "A regular expression: the rows to measure; all of them by default.")
PEERS = flags.DEFINE_string("peers", "", "The Python of the peers' environment.")
COMPILED = flags.DEFINE_bool("compiled", True, "Peers compiled too (torch.compile): minutes a row before its rounds.")
ROUNDS = flags.DEFINE_integer("rounds", 7, "Of each row.", lower_bound=1)
LEAST = flags.DEFINE_float("least", 0.3, "Seconds that a side is timed for in a round, in whole calls.")
DTYPE = flags.DEFINE_string("dtype", "", "Of our networks; default bfloat16 on an accelerator, float32 on a CPU.")
OUT = flags.DEFINE_string("out", "", "A JSON file of all that was measured.")

HERE = Path(__file__).parent


class Peers:
    """The process of benchmarks.peers; all of its answers are dicts, one of a mistake has `error`."""

    def __init__(self, python: str):
        self.process = None
        self.versions = {"error": "no --peers"}
        if python:
            words = [python, str(HERE / "peers.py")]
            self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            self.versions = self.answer()

    def answer(self) -> dict:
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"the peers' process ended, status {self.process.wait()}"}

    def ask(self, request: dict) -> dict:
        if "error" in self.versions:
            return self.versions
        print(json.dumps(request), file=self.process.stdin, flush=True)
        return self.answer()

    def close(self) -> None:
        if self.process:
            self.process.stdin.close()
            self.process.wait()


def seconds_of(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def repeated(call, times: int) -> float:
    return sum(call() for _ in range(times)) / times


def measure(row: Row, python: str) -> dict:
    """{seconds of ours [rounds], of each peer, ratios; or what a peer lacked}."""
    parameters, call = row.build()
    call()  # compiles
    sides = {"langevin": lambda: seconds_of(call)}
    found = {"images": row.images, "parameters": {"langevin": parameters}, "skipped": {}}
    waiting = []
    for name, request in row.peers.items():
        if request["compiled"] and not COMPILED.value:
            continue
        peer = Peers(python)
        waiting.append(peer)
        said = peer.ask(request)
        if "error" in said:
            found["skipped"][name] = said["error"]
        else:
            found["parameters"][name] = said["ready"]
            sides[name] = lambda peer=peer: peer.ask({})["seconds"]
    found["seconds"] = by_turns(sides)
    ours = np.array(found["seconds"]["langevin"])
    found["ratios"] = {name: list(took / ours) for name, took in found["seconds"].items() if name != "langevin"}
    for peer in waiting:
        peer.close()
    return found


def by_turns(sides: dict) -> dict[str, list[float]]:
    """Seconds a call, one entry a round; whoever began a round ends the next."""
    times = {name: max(1, round(LEAST.value / call())) for name, call in sides.items()}
    took = {name: [] for name in sides}
    for i in range(ROUNDS.value):
        for name in list(sides)[:: 1 if i % 2 else -1]:
            sides[name]()  # not timed: whoever has waited may have given its memory back to the system
            took[name].append(repeated(sides[name], times[name]))
    return took


def machine(dtype: str) -> dict:
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "devices": jax.device_count(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "jax": jax.__version__,
        "dtype": dtype,
        "date": time.strftime("%Y-%m-%d"),
    }


def table(found: dict[str, dict]) -> list[str]:
    """A line a row and peer: seconds of a call, images a second, the peer's time over ours."""
    lines = [f"{'row':<20}{'s a call':>10}{'images/s':>10}   times as fast as (median, quartiles)"]
    for name, row in found.items():
        own = float(np.median(row["seconds"]["langevin"]))
        ratios = [f"{peer} {spread(values)}" for peer, values in row["ratios"].items()]
        ratios += [f"{peer}: {why}" for peer, why in row["skipped"].items()]
        lines.append(f"{name:<20}{own:>10.3g}{row['images'] / own:>10.3g}   {'; '.join(ratios)}")
    return lines


def spread(values) -> str:
    low, middle, high = np.quantile(values, (0.25, 0.5, 0.75))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def main(argv):
    if len(argv) > 1:
        sys.exit(f"error: unexpected argument {argv[1]!r}; every option is a flag, --name=value")
    dtype = DTYPE.value or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    chosen = {name: row for name, row in rows(dtype).items() if re.search(ONLY.value, name)}
    if not chosen:
        sys.exit(f"error: --only={ONLY.value} is none of the rows: {', '.join(rows(dtype))}")
    where, found = machine(dtype), {}
    print("  ".join(f"{key} {value}" for key, value in where.items()), flush=True)
    for name, row in chosen.items():
        found[name] = measure(row, PEERS.value)
        print(table({name: found[name]})[-1], flush=True)
        if OUT.value:
            Path(OUT.value).write_text(json.dumps({"machine": where, "rows": found}, indent=1))
    print(*table(found), sep="\n")


if __name__ == "__main__":
    huge_pages.restart()  # as main.py does; the peers inherit it
    app.run(main)
