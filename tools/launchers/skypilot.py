"""A SkyPilot job file, and `sky jobs`, which starts preempted jobs again by itself."""

import json
import shlex

from tools.launchers.base import FOLDER, Backend, Job, Run, Step, Write
from tools.launchers.tpu import RUNTIMES, accelerator_type
from training.chips import CHIPS, Slice, parse_slice


def accelerators(asked: Slice) -> str:
    """'tpu-v6e-16' or 'H100:8', as SkyPilot names them."""
    if asked.chip in RUNTIMES:
        return f"tpu-{accelerator_type(asked)}"
    if CHIPS[asked.chip].axes:
        raise ValueError(f"--accelerator={asked}: --backend=sky has {', '.join(RUNTIMES)} and GPUs; use --backend=gce")
    return f"{asked.chip.upper()}:{asked.chips}"


def job_file(job: Job) -> Write:
    """Rendered as YAML. Strings are written as JSON has them, which YAML reads too."""
    asked = parse_slice(job.accelerator)
    tpu = asked.chip in RUNTIMES
    runtime = f"  accelerator_args:\n    runtime_version: {RUNTIMES[asked.chip]}\n" if tpu else ""
    infra = f"  infra: gcp/{job.zone.rpartition('-')[0]}/{job.zone}\n" if job.zone else ""
    requirements = "requirements-tpu.txt" if tpu else "requirements-gpu.txt"
    processes = "" if tpu or job.nodes == 1 else PROCESSES
    text = f"""name: {json.dumps(job.name)}
workdir: .
num_nodes: {job.nodes}
resources:
  accelerators: {accelerators(asked)}
{runtime}{infra}  use_spot: {str(job.spot).lower()}
setup: |
  command -v uv >/dev/null || curl -LsSf https://astral.sh/uv/install.sh | sh
  export PATH="$HOME/.local/bin:$PATH"
  uv python install {job.python}
  uv venv --clear --python {job.python} .venv
  uv pip install --python .venv/bin/python -r {requirements}
run: |
  exec .venv/bin/python {shlex.join(job.command)}{processes}
"""
    return Write(f"{FOLDER}/{job.name}.sky.yaml", text)


# How the nodes of a GPU job find each other, from what SkyPilot tells each.
PROCESSES = """ \\
    --coordinator="$(echo "$SKYPILOT_NODE_IPS" | head -n 1):8476" \\
    --num_processes="$SKYPILOT_NUM_NODES" --process_id=$SKYPILOT_NODE_RANK"""


def run(job: Job) -> list[Step]:
    file = job_file(job)
    return [file, Run(("sky", "jobs", "launch", f"--name={job.name}", "--yes", "--detach-run", *job.extra, file.path))]


SKYPILOT = Backend(
    program="sky",
    uses=("accelerator", "nodes", "spot", "zone", "python", "extra"),
    needs=("accelerator",),
    check=lambda job: [Run(("sky", "check"))],
    run=run,
    logs=lambda job: [Run(("sky", "jobs", "logs", f"--name={job.name}"))],
    status=lambda job: [Run(("sky", "jobs", "queue"))],
    delete=lambda job: [Run(("sky", "jobs", "cancel", f"--name={job.name}", "--yes"))],
)
