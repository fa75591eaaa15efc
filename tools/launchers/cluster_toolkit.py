"""Google's Cluster Toolkit (gcluster), which took the place of xpk: the job goes to a GKE cluster that is there.

The code and its packages come in a container image: one that is given, or python's with this folder built onto it, for
which gcluster reads $GCLUSTER_IMAGE_REPO.
"""

import shlex

from tools.launchers.base import Backend, Job, Run, Step
from tools.launchers.gcloud import slice_of
from tools.launchers.tpu import RUNTIMES, accelerator_type
from training.chips import Slice

RESTARTS = 100  # a preempted spot slice starts the job again; it resumes from its workdir


def tpus(job: Job) -> Slice:
    return slice_of(job, tuple(RUNTIMES), "tpu7x is --backend=gce; GPUs are --backend=slurm or sky")


def at(job: Job) -> tuple[str, ...]:
    return f"--cluster={job.cluster}", f"--location={job.zone}", f"--project={job.project}"


def run(job: Job) -> list[Step]:
    command = shlex.join(("python", *job.command))
    if job.image:
        image = (f"--image={job.image}",)
    else:
        image = (f"--base-image=python:{job.python}", "--build-context=.")
        command = f"pip install --quiet -r requirements-tpu.txt && {command}"
    spot = ("--gke-nap-provisioning=spot",) if job.spot else ()
    what = (f"--name={job.name}", f"--compute-type={accelerator_type(tpus(job))}", *image, *spot)
    again = (f"--restarts={RESTARTS}", "--grace-period=2m")
    return [Run(("gcluster", "job", "submit", *at(job), *what, *again, *job.extra, f"--command={command}"))]


CLUSTER_TOOLKIT = Backend(
    program="gcluster",
    uses=("accelerator", "spot", "zone", "project", "cluster", "image", "python", "extra"),
    needs=("accelerator", "zone", "project", "cluster"),
    check=lambda job: [Run(("gcluster", "job", "list", *at(job)))],
    run=run,
    logs=lambda job: [Run(("gcluster", "job", "logs", job.name, "--follow", *at(job)))],
    status=lambda job: [Run(("gcluster", "job", "list", *at(job)))],
    delete=lambda job: [Run(("gcluster", "job", "cancel", job.name, *at(job)))],
)
