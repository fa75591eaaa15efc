"""Where a job can run: one file a backend, and the table of them."""

from tools.launchers.base import Backend, Job, Run, Write
from tools.launchers.cluster_toolkit import CLUSTER_TOOLKIT
from tools.launchers.compute_engine import COMPUTE_ENGINE
from tools.launchers.hosts import LOCAL, SSH
from tools.launchers.skypilot import SKYPILOT
from tools.launchers.slurm import SLURM
from tools.launchers.tpu import TPU_QUEUED, TPU_VM

__all__ = ["BACKENDS", "Backend", "Job", "Run", "Write"]

BACKENDS: dict[str, Backend] = {
    "local": LOCAL,
    "ssh": SSH,
    "slurm": SLURM,
    "tpu": TPU_QUEUED,
    "tpu_vm": TPU_VM,
    "gce": COMPUTE_ENGINE,
    "sky": SKYPILOT,
    "gcluster": CLUSTER_TOOLKIT,
}
