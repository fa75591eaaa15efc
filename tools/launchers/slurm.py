"""GPU nodes under SLURM: a script is rendered and submitted. One process a GPU, as jax finds them under SLURM.

SLURM sends SIGTERM two minutes before the time limit and when it preempts; the run saves, ends with status 143, and the
script puts the job back into the queue, where it resumes from its workdir.
"""

import shlex
import sys

from tools.launchers import base
from tools.launchers.base import FOLDER, Ask, Backend, Job, Run, Step, Write
from training.chips import CHIPS, parse_slice

WAITS = ("PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "RESIZING", "STAGE_OUT", "PREEMPTED")
ENDED = ("FAILED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")
SIGTERM = 128 + 15  # the exit status of a run that saved and went


def gpus(job: Job) -> int:
    """On each node."""
    asked = parse_slice(job.accelerator)
    if CHIPS[asked.chip].axes:
        raise ValueError(f"--accelerator={job.accelerator}: SLURM has GPU nodes; give the GPUs of a node, as in h100:8")
    return asked.chips


def script(job: Job) -> Write:
    partition = f"#SBATCH --partition={job.partition}\n" if job.partition else ""
    limit = f"#SBATCH --time={job.hours}:00:00\n" if job.hours else ""
    extra = "".join(f"#SBATCH {word}\n" for word in job.extra)
    text = f"""#!/bin/bash
#SBATCH --job-name={job.name}
#SBATCH --nodes={job.nodes}
#SBATCH --ntasks-per-node={gpus(job)}
#SBATCH --gpus-per-node={gpus(job)}
#SBATCH --output={FOLDER}/{job.name}-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue
{partition}{limit}{extra}
srun --kill-on-bad-exit=1 {shlex.join((sys.executable, *job.command))}
status=$?
[ $status = {SIGTERM} ] && scontrol requeue "$SLURM_JOB_ID"
exit $status
"""
    return Write(f"{FOLDER}/{job.name}.sbatch", text)


def queue(job: Job) -> Run:
    return Run(("squeue", "--me", "--noheader", f"--name={job.name}", "--format=%T"))


def past(job: Job) -> Run:
    """The newest job of that name, whatever became of it."""
    last = "--starttime=now-30days"
    return Run(("sacct", "-X", "--noheader", "--parsable2", f"--name={job.name}", "--format=State,ExitCode", last))


def logs(job: Job) -> list[Step]:
    return [Run(("bash", "-c", f"tail -n 100 -F $(ls -t {FOLDER}/{job.name}-*.log | head -n 1)"))]


def observe(job: Job, ask: Ask) -> str:
    live, ended = ask(queue(job)), ask(past(job))
    if not (live.ok and ended.ok):
        return base.UNKNOWN
    if states := live.out.split():
        return base.WAITING if states[0] in WAITS else base.RUNNING
    lines = [line for line in ended.out.splitlines() if line.strip()]
    if not lines:
        return base.READY
    state, code = lines[-1].split("|")
    if state == "COMPLETED":
        return base.DONE
    if state.startswith("CANCELLED") or code.startswith("2:"):
        return base.REFUSED
    return base.FAILED if state in ENDED else base.RUNNING  # not in the books yet


SLURM = Backend(
    program="sbatch",
    uses=("accelerator", "nodes", "partition", "hours", "extra"),
    needs=("accelerator",),
    check=lambda job: [Run(("sinfo", "--noheader", *((f"--partition={job.partition}",) if job.partition else ())))],
    run=lambda job: [script(job), Run(("sbatch", f"{FOLDER}/{job.name}.sbatch"))],
    logs=logs,
    status=lambda job: [queue(job), past(job)],
    delete=lambda job: [Run(("scancel", "--me", f"--name={job.name}"))],
    observe=observe,
)
