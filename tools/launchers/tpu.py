"""Cloud TPU VMs, v4 to v6e, through gcloud: at once, or by a queued resource.

Google calls this API legacy; v7x and later are Compute Engine instances (compute_engine.py).
"""

from functools import partial

from tools.launchers import remote
from tools.launchers.base import LOST, UNKNOWN, WAITING, Ask, Backend, Job, Run, Step
from tools.launchers.gcloud import at, slice_of, without_answer
from training.chips import CHIPS, Slice, parse_slice

# docs.cloud.google.com/tpu/docs/runtimes, November 2026.
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base",
    "v5e": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
GCLOUD = ("gcloud", "compute", "tpus")
# States of queued resources and of nodes, as the API's reference lists them.
COMES = ("CREATING", "ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "DELETING")
COMES += ("STARTING", "RESTARTING", "REIMAGING", "REPAIRING")
HERE = ("ACTIVE", "READY")


def tpus(job: Job) -> Slice:
    return slice_of(job, tuple(RUNTIMES), "v7x and later are --backend=gce")


def accelerator_type(asked: Slice) -> str:
    """'v5litepod-16': as the API counts, in cores for v4 and v5p, in chips after them."""
    count = asked.chips * CHIPS[asked.chip].cores
    if parse_slice(f"{asked.chip}-{count}") != asked:
        raise ValueError(f"--accelerator={asked}: {asked.chip}-{count} is {parse_slice(f'{asked.chip}-{count}')} here")
    return f"{asked.chip.replace('v5e', 'v5litepod')}-{count}"


def ssh(job: Job, worker: str, command: str) -> Run:
    return Run((*GCLOUD, "tpu-vm", "ssh", job.name, f"--worker={worker}", *at(job), f"--command={command}"))


def check(job: Job) -> list[Step]:
    tpus(job)
    return [Run((*GCLOUD, "tpu-vm", "list", *at(job), "--format=value(name)", "--limit=1"))]


def create(job: Job, queued: bool) -> list[Step]:
    asked = tpus(job)
    what = (f"--accelerator-type={accelerator_type(asked)}", *at(job), *(("--spot",) if job.spot else ()), *job.extra)
    version = RUNTIMES[asked.chip]
    if not queued:
        return [Run((*GCLOUD, "tpu-vm", "create", job.name, f"--version={version}", *what))]
    how = (f"--node-id={job.name}", f"--runtime-version={version}")
    return [Run((*GCLOUD, "queued-resources", "create", job.name, *how, *what))]


def setup(job: Job) -> list[Step]:
    file, made = remote.bundle(job)
    copy = Run((*GCLOUD, "tpu-vm", "scp", file, f"{job.name}:{remote.BUNDLE}", "--worker=all", *at(job)))
    return [*made, copy, ssh(job, "all", remote.setup(job, "requirements-tpu.txt"))]


def run(job: Job) -> list[Step]:
    return [ssh(job, "all", remote.begin(job))]


def logs(job: Job) -> list[Step]:
    return [ssh(job, "0", remote.follow(job))]


def describe(job: Job, queued: bool) -> Run:
    kind, state = ("queued-resources", "state.state") if queued else ("tpu-vm", "state")
    return Run((*GCLOUD, kind, "describe", job.name, *at(job), f"--format=value({state})"))


def status(job: Job, queued: bool) -> list[Step]:
    return [describe(job, queued), ssh(job, "all", remote.probe(job))]


def delete(job: Job, queued: bool) -> list[Step]:
    kind, force = ("queued-resources", ("--force",)) if queued else ("tpu-vm", ())
    return [Run((*GCLOUD, kind, "delete", job.name, *at(job), *force, "--quiet"))]


def observe(job: Job, ask: Ask, queued: bool) -> str:
    for answer in (ask(describe(job, kind)) for kind in ((True, False) if queued else (False,))):
        if not answer.ok:
            return without_answer(answer)
        state = answer.out.strip()
        if state not in HERE:
            return WAITING if state in COMES else LOST if state else UNKNOWN
    return remote.verdict(ask(ssh(job, "all", remote.probe(job))).out, tpus(job).hosts)


def backend(queued: bool) -> Backend:
    return Backend(
        program="gcloud",
        uses=("accelerator", "spot", "zone", "project", "python", "extra"),
        needs=("accelerator", "zone", "project"),
        check=check,
        create=partial(create, queued=queued),
        setup=setup,
        run=run,
        logs=logs,
        status=partial(status, queued=queued),
        delete=partial(delete, queued=queued),
        observe=partial(observe, queued=queued),
    )


TPU_QUEUED, TPU_VM = backend(queued=True), backend(queued=False)
