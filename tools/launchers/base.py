"""What every backend is made of: a job, the steps that an action takes, and the shell that runs them."""

import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple


class Job(NamedTuple):
    """What is to run, and on what. A backend refuses what it cannot use, and needs what it says."""

    name: str  # of the slice, the job and its files
    command: tuple[str, ...]  # main.py and its flags
    accelerator: str = ""  # 'v5e-16', 'v5p-256', 'tpu7x:2x2x2', 'h100:8' (a node)
    nodes: int = 1  # slurm, sky: machines with that many GPUs
    spot: bool = False
    zone: str = ""
    project: str = ""
    hosts: tuple[str, ...] = ()
    cluster: str = ""
    image: str = ""
    partition: str = ""
    hours: int = 0  # slurm: time limit
    python: str = "3.12"  # installed on every machine
    requirements: str = "requirements-gpu.txt"  # ssh: what is installed there
    extra: tuple[str, ...] = ()  # handed to the command that creates or submits, as it is


class Run(NamedTuple):
    """A program to start; what it says on stderr is shown, and becomes the error where it fails."""

    argv: tuple[str, ...]
    may_fail: bool = False  # and the next step is taken all the same

    def __str__(self):
        return shlex.join(self.argv)


class Write(NamedTuple):
    """A file to render."""

    path: str
    text: str

    def __str__(self):
        return f"cat > {self.path} <<'EOF'\n{self.text}EOF"


Step = Run | Write
Steps = Callable[[Job], list[Step]]


FOLDER = "runs/launch"  # of rendered files


class Answer(NamedTuple):
    """What a read-only command gave."""

    ok: bool
    out: str
    error: str


Ask = Callable[[Run], Answer]

# What a job can be in, as `observe` tells it; tools/launch.py says what follows from each.
ABSENT, WAITING, LOST, READY, RUNNING, FAILED, REFUSED, DONE, UNKNOWN = (
    "absent",  # no machines
    "waiting",  # for capacity, or while they start
    "lost",  # preempted, stopped or failed: to be deleted before there can be new ones
    "ready",  # machines, and nothing runs on them
    "running",
    "failed",  # the run ended otherwise than well; a restart may help
    "refused",  # it ended with exit status 2: a mistake in config or flags, which a restart repeats
    "done",
    "unknown",  # no answer; ask again
)


def nothing(job: Job) -> list[Step]:
    return []


class Backend(NamedTuple):
    """One way to get machines and run there. Every action is a function from a job to steps: data, until they run."""

    program: str  # that must be installed here
    uses: tuple[str, ...]  # fields of Job beside name and command that mean something
    needs: tuple[str, ...]  # those of them that must be given
    check: Steps  # read-only: fails where the backend would refuse, before anything is billed
    run: Steps
    logs: Steps
    status: Steps
    delete: Steps
    create: Steps = nothing
    setup: Steps = nothing
    observe: Callable[[Job, Ask], str] | None = None  # None: the backend itself brings preempted runs back


def execute(steps: list[Step], dry_run: bool) -> None:
    """Runs the steps in order, or prints them. Raises ValueError in one line where one fails."""
    for step in steps:
        if dry_run:
            print(step)
        elif isinstance(step, Write):
            Path(step.path).parent.mkdir(parents=True, exist_ok=True)
            Path(step.path).write_text(step.text)
        else:
            start(step)


def start(step: Run) -> None:
    process = subprocess.Popen(step.argv, stderr=subprocess.PIPE, text=True, errors="replace")
    said = []
    for line in process.stderr:
        sys.stderr.write(line)
        said.append(line.strip())
    if process.wait() and not step.may_fail:
        last = next((line for line in reversed(said) if line), f"exit status {process.returncode}")
        raise ValueError(f"{' '.join(step.argv[:5])} ... failed: {last}")


def ask(step: Run) -> Answer:
    """Runs a read-only command, quietly."""
    result = subprocess.run(step.argv, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    return Answer(result.returncode == 0, result.stdout, result.stderr)
