"""What machines are told in bash: to get the code and a Python of their own, to run it, to say how it stands.

Everything can be told again: what is there is kept. The run goes on when the connection ends; its log, process and
exit status lie in ~/langevin-runs.
"""

import shlex
import tempfile
from pathlib import Path
from typing import NamedTuple

from tools.launchers.base import DONE, FAILED, READY, REFUSED, RUNNING, UNKNOWN, Job, Run


class Place(NamedTuple):
    """Where code and Python lie on a machine."""

    code: str = "~/langevin"
    python: str = ".venv/bin/python"


RUNS = "~/langevin-runs"
BUNDLE = "langevin.bundle"
TOKEN = "langevin-run"  # begins the line that tells how a run stands


MACHINE = Place()


def bundle(job: Job) -> tuple[str, list[Run]]:
    """(file, steps that make it): the commit that is checked out, with its history, so that runs record it."""
    file = str(Path(tempfile.gettempdir()) / f"{job.name}.{BUNDLE}")
    clean = "git diff --quiet HEAD || { echo 'uncommitted changes do not travel: commit them first' >&2; exit 1; }"
    return file, [Run(("bash", "-c", clean)), Run(("git", "bundle", "create", "--quiet", file, "HEAD"))]


def setup(job: Job, requirements: str) -> str:
    """Unpacks the bundle, says which Python the image has, installs its own beside it, and says what was installed."""
    return f"""set -euo pipefail
echo "$(hostname): the image has $(python3 --version 2>&1), Langevin uses {job.python}"
git init --quiet {MACHINE.code} && cd {MACHINE.code}
git fetch --quiet --force ~/{BUNDLE} HEAD && git checkout --quiet --force --detach FETCH_HEAD
export PATH="$HOME/.local/bin:$PATH"
command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
uv python install {job.python}
[ "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" = {job.python} ] \\
  || uv venv --clear --python {job.python} .venv
uv pip install --quiet --python .venv/bin/python -r {requirements}
.venv/bin/python -c 'import sys, importlib.metadata as m
print("ready: Python", sys.version.split()[0], *(f"{{n}} {{m.version(n)}}" for n in ("jax", "jaxlib", "flax")))'
"""


def begin(job: Job, place: Place = MACHINE) -> str:
    """Starts the run apart from the connection; a run of the same name is asked to save and go first."""
    stem = f"{RUNS}/{job.name}"
    command = shlex.join((place.python, *job.command))
    # trap: the shell outlives a SIGTERM to the group, so that the status is written; the run itself is not shielded
    inner = f"trap : TERM; {command} > {stem}.log 2>&1; echo $? > {stem}.exit"
    return f"""set -eu
cd {place.code} && mkdir -p {RUNS}
{stop(job)}
rm -f {stem}.exit
setsid nohup bash -c {shlex.quote(inner)} </dev/null >/dev/null 2>&1 &
echo $! > {stem}.pid
"""


def stop(job: Job) -> str:
    """SIGTERM, on which a run saves; SIGKILL where it is not gone after two minutes."""
    stem = f"{RUNS}/{job.name}"
    pid = f"{stem}.pid"
    return f"""if [ ! -f {stem}.exit ] && [ -f {pid} ] && kill -TERM -- -$(cat {pid}) 2>/dev/null; then
  for _ in $(seq 120); do kill -0 -- -$(cat {pid}) 2>/dev/null || break; sleep 1; done
  kill -KILL -- -$(cat {pid}) 2>/dev/null || true
fi"""


def probe(job: Job) -> str:
    """One line: the token, then 'none', 'running', 'died', or the exit status."""
    stem = f"{RUNS}/{job.name}"
    return f"""if [ -f {stem}.exit ]; then echo {TOKEN} $(cat {stem}.exit)
elif [ ! -f {stem}.pid ]; then echo {TOKEN} none
elif kill -0 -- -$(cat {stem}.pid) 2>/dev/null; then echo {TOKEN} running
else echo {TOKEN} died; fi"""


def follow(job: Job) -> str:
    return f"tail -n 100 -F {RUNS}/{job.name}.log"


def verdict(out: str, hosts: int) -> str:
    """How the run stands on all hosts together, from the output of `probe` on each."""
    words = [line.split()[-1] for line in out.splitlines() if TOKEN in line]
    if len(words) < hosts:
        return UNKNOWN
    words = set(words)
    if "2" in words:
        return REFUSED
    if words == {"0"}:
        return DONE
    if words <= {"0", "running"}:
        return RUNNING
    return READY if words == {"none"} else FAILED
