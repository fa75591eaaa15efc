"""Runs cells as processes, so many at a time, each with its devices; what is done or cut off lies in their folders."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import workdir as records
from tools.sweeps.cells import Cell, is_done
from tools.sweeps.devices import Devices, environment
from training.interrupt import Interrupt, Interrupted
from training.metrics import in_bucket, write_atomic

POLL = 0.2  # seconds
PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Running(NamedTuple):
    cell: Cell
    process: subprocess.Popen
    own: Devices


def run_cells(cells: list[Cell], command: Callable[[Cell], list[str]], shares: list[Devices], log) -> dict[str, int]:
    """{name: exit status} of the cells that were not done, each run once, len(shares) at a time.

    A signal is passed on once, so that every run saves; Interrupted is raised when they have. log: where a line is
    appended for every start and end. Raises ValueError before anything starts where a folder is damaged.
    """
    waiting = deque(cell for cell in cells if not is_done(cell))
    free, running, statuses = list(shares), [], {}
    with Interrupt() as interrupt:
        try:
            while waiting or running:
                for one in [one for one in running if one.process.poll() is not None]:
                    running.remove(one)
                    free.append(one.own)
                    statuses[one.cell.name] = one.process.returncode
                    note(log, one.cell, "done" if is_done(one.cell) else f"exit {one.process.returncode}")
                for _ in range(len(waiting)):
                    if not free:
                        break
                    cell = waiting.popleft()
                    if busy(cell):  # a run of an earlier sweep that was killed; it saves and goes
                        waiting.append(cell)
                    elif not is_done(cell):
                        running.append(start(cell, command(cell), free.pop(0), log))
                interrupt.check()
                time.sleep(POLL)
        except Interrupted:
            for one in running:
                one.process.send_signal(signal.SIGTERM)
            for one in running:
                note(log, one.cell, f"cut off, exit {one.process.wait()}")
            raise
    return statuses


def busy(cell: Cell) -> bool:
    """Whether another process trains in the cell's folder."""
    try:
        held = records.lock(cell.folder)
    except ValueError:
        return True
    if held:
        held.close()
    return False


def start(cell: Cell, argv: list[str], own: Devices, log) -> Running:
    cell.folder.mkdir(parents=True, exist_ok=True)
    bucket = in_bucket(cell.folder)

    def before():  # in the new process
        if own.kind == "CPU core":
            os.sched_setaffinity(0, own.ids)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PARENT_DIED, signal.SIGTERM)  # a sweep that is killed takes its runs along

    with contextlib.nullcontext() if bucket else open(cell.folder / "output.log", "a") as output:
        process = subprocess.Popen(
            argv,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=os.environ | environment(own),
            start_new_session=True,  # Ctrl-C reaches them through us, once
            preexec_fn=before,
        )
    note(log, cell, "start")
    return Running(cell, process, own)


def note(log, cell: Cell, event: str) -> None:
    """A line of the sweep's history, on the terminal too."""
    print(f"{time.strftime('%H:%M:%S')} {cell.name}: {event}", flush=True)
    line = json.dumps({"at": records.now(), "cell": cell.name, "event": event}) + "\n"
    write_atomic(log, ((log.read_text() if log.exists() else "") + line).encode())
