"""Machines that are there: a list of ssh hosts, or this one. Nothing is created, nothing is deleted but the run."""

import sys
from pathlib import Path

from tools.launchers import remote
from tools.launchers.base import UNKNOWN, Ask, Backend, Job, Run, Step

PORT = 8476  # of the first host, where the processes find each other
QUIET = ("-o", "BatchMode=yes", "-o", "ConnectTimeout=20")


def process(job: Job, i: int) -> tuple[str, ...]:
    """What tells process i of several how to find the others; nothing for one."""
    if len(job.hosts) == 1:
        return ()
    first = job.hosts[0].rpartition("@")[2]
    return f"--coordinator={first}:{PORT}", f"--num_processes={len(job.hosts)}", f"--process_id={i}"


def ssh(host: str, script: str) -> Run:
    return Run(("ssh", *QUIET, host, script))


def each(job: Job, script: str) -> list[Step]:
    return [ssh(host, script) for host in job.hosts]


def setup(job: Job) -> list[Step]:
    file, made = remote.bundle(job)
    copies = [Run(("scp", "-q", *QUIET, file, f"{host}:{remote.BUNDLE}")) for host in job.hosts]
    return [*made, *copies, *each(job, remote.setup(job, job.requirements))]


def run(job: Job) -> list[Step]:
    told = [job._replace(command=(*job.command, *process(job, i))) for i in range(len(job.hosts))]
    return [ssh(host, remote.begin(own)) for host, own in zip(job.hosts, told, strict=True)]


def observe(job: Job, ask: Ask) -> str:
    answers = [ask(step) for step in each(job, remote.probe(job))]
    if not all(answer.ok for answer in answers):
        return UNKNOWN
    return remote.verdict("".join(answer.out for answer in answers), len(job.hosts))


SSH = Backend(
    program="ssh",
    uses=("hosts", "python", "requirements"),
    needs=("hosts",),
    check=lambda job: each(job, "true"),
    setup=setup,
    run=run,
    logs=lambda job: [ssh(job.hosts[0], remote.follow(job))],
    status=lambda job: each(job, remote.probe(job)),
    delete=lambda job: each(job, remote.stop(job)),
    observe=observe,
)


HERE = remote.Place(code=str(Path(__file__).parents[2]), python=sys.executable)


def bash(script: str) -> Run:
    return Run(("bash", "-c", script))


LOCAL = Backend(
    program="bash",
    uses=(),
    needs=(),
    check=lambda job: [],
    run=lambda job: [bash(remote.begin(job, HERE))],
    logs=lambda job: [bash(remote.follow(job))],
    status=lambda job: [bash(remote.probe(job))],
    delete=lambda job: [bash(remote.stop(job))],
    observe=lambda job, ask: remote.verdict(ask(bash(remote.probe(job))).out, 1),
)
