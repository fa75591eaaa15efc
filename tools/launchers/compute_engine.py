"""TPUs as Compute Engine instances, v7x and later: a managed instance group is the slice.

What makes it one slice instead of so many machines: a workload policy with the topology, bulk mode, and no repair of
single machines, which would break the topology. A preempted group is deleted and made anew.
"""

import shlex

from tools.launchers import remote
from tools.launchers.base import LOST, WAITING, Ask, Backend, Job, Run, Step
from tools.launchers.gcloud import at, slice_of, without_answer
from training.chips import Slice

# chip: (machine type of four chips, image family), of the project below. docs.cloud.google.com/compute/docs/tpus.
MACHINES = {"tpu7x": ("tpu7x-standard-4t", "ubuntu-accel-2404-amd64-tpu-tpu7x")}
IMAGES = "ubuntu-os-accelerator-images"
GONE = ("STOPPING", "STOPPED", "SUSPENDING", "SUSPENDED", "TERMINATED")
SPOT = ("--provisioning-model=SPOT", "--instance-termination-action=STOP")
COMPUTE = ("gcloud", "compute")
GROUPS = (*COMPUTE, "instance-groups", "managed")


def tpus(job: Job) -> Slice:
    return slice_of(job, tuple(MACHINES), "v4 to v6e are --backend=tpu")


def region(job: Job) -> str:
    return job.zone.rpartition("-")[0]


def policy(job: Job) -> tuple[str, ...]:
    """The workload policy's flag; one machine needs none."""
    if tpus(job).hosts == 1:
        return ()
    place = f"projects/{job.project}/regions/{region(job)}/resourcePolicies/{job.name}"  # a bare name is refused
    return f"--workload-policy={place}", "--target-size-policy-mode=bulk"


def each(job: Job, command: str) -> Run:
    """`command` on every machine at once, $vm being its name; fails where it fails on one."""
    names = shlex.join(instances(job, "name").argv)
    return Run(("bash", "-c", f"""vms=$({names}) || exit 1
[ -n "$vms" ] || {{ echo '{job.name} has no machines' >&2; exit 1; }}
pids=; for vm in $vms; do {command} & pids="$pids $!"; done
failed=0; for pid in $pids; do wait $pid || failed=1; done; exit $failed"""))  # fmt: skip


def ssh(job: Job, command: str) -> str:
    return f"{shlex.join((*COMPUTE, 'ssh'))} $vm {shlex.join((*at(job), f'--command={command}'))}"


def instances(job: Job, fields: str) -> Run:
    return Run((*GROUPS, "list-instances", job.name, *at(job), f"--format=value({fields})"))


def check(job: Job) -> list[Step]:
    tpus(job)
    return [Run((*COMPUTE, "instances", "list", f"--zones={job.zone}", f"--project={job.project}", "--limit=1"))]


def create(job: Job) -> list[Step]:
    """Policy and template may be there from an earlier try; without them the group is refused."""
    asked = tpus(job)
    machine, family = MACHINES[asked.chip]
    project = f"--project={job.project}"
    topology = "x".join(map(str, asked.shape))
    shape = Run((*COMPUTE, "resource-policies", "create", "workload-policy", job.name, "--type=HIGH_THROUGHPUT",
                 f"--accelerator-topology={topology}", f"--region={region(job)}", project), may_fail=True)  # fmt: skip
    template = Run((*COMPUTE, "instance-templates", "create", job.name, f"--machine-type={machine}",
                    f"--image-family={family}", f"--image-project={IMAGES}", "--boot-disk-type=hyperdisk-balanced",
                    "--boot-disk-size=200GB", "--maintenance-policy=TERMINATE", "--scopes=cloud-platform",
                    *(SPOT if job.spot else ()), project, *job.extra), may_fail=True)  # fmt: skip
    group = Run((*GROUPS, "create", job.name, f"--template={job.name}", f"--size={asked.hosts}", *at(job),
                 "--default-action-on-vm-failure=do-nothing", *policy(job)))  # fmt: skip
    return [*([shape] if policy(job) else []), template, group]


def setup(job: Job) -> list[Step]:
    file, made = remote.bundle(job)
    copy = f"{shlex.join((*COMPUTE, 'scp', file))} $vm:{remote.BUNDLE} {shlex.join(at(job))}"
    return [*made, each(job, copy), each(job, ssh(job, remote.setup(job, "requirements-tpu.txt")))]


def run(job: Job) -> list[Step]:
    return [each(job, ssh(job, remote.begin(job)))]


def logs(job: Job) -> list[Step]:
    first = shlex.join(instances(job, "name").argv)
    return [Run(("bash", "-c", f"vm=$({first} | head -n 1) && {ssh(job, remote.follow(job))}"))]


def status(job: Job) -> list[Step]:
    return [instances(job, "name,instanceStatus"), each(job, ssh(job, remote.probe(job)))]


def delete(job: Job) -> list[Step]:
    """The group, which costs, and then what it was made of."""
    project, quiet, where = f"--project={job.project}", "--quiet", f"--region={region(job)}"
    group = Run((*GROUPS, "delete", job.name, *at(job), quiet))
    template = Run((*COMPUTE, "instance-templates", "delete", job.name, project, quiet), may_fail=True)
    shape = Run((*COMPUTE, "resource-policies", "delete", job.name, where, project, quiet), may_fail=True)
    return [group, template, *([shape] if policy(job) else [])]


def observe(job: Job, ask: Ask) -> str:
    answer = ask(instances(job, "instanceStatus"))
    if not answer.ok:
        return without_answer(answer)
    states, hosts = answer.out.split(), tpus(job).hosts
    if any(state in GONE for state in states):
        return LOST
    if states != ["RUNNING"] * hosts:
        return WAITING
    return remote.verdict(ask(each(job, ssh(job, remote.probe(job)))).out, hosts)


COMPUTE_ENGINE = Backend(
    program="gcloud",
    uses=("accelerator", "spot", "zone", "project", "python", "extra"),
    needs=("accelerator", "zone", "project"),
    check=check,
    create=create,
    setup=setup,
    run=run,
    logs=logs,
    status=status,
    delete=delete,
    observe=observe,
)
