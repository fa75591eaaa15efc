"""Get machines and train on them: a TPU slice of any size, GPU nodes, ssh hosts, or here.

    python -m tools.launch create --backend=tpu --name=NAME --accelerator=v5e-16 --spot --zone=Z --project=P
    python -m tools.launch setup  --backend=tpu --name=NAME --accelerator=v5e-16 --zone=Z --project=P
    python -m tools.launch run    ... --config=configs/imagenet64.py --workdir=gs://BUCKET/NAME -- --config.seed=1
    python -m tools.launch watch  ... the same: creates, sets up, runs, and again whenever the slice is preempted
    python -m tools.launch logs | status | delete ...

What follows -- goes to main.py. --dry_run prints the commands instead of running them. --flagfile=FILE holds flags that
several commands share. docs/launch.md says what each backend takes.
"""

import shutil
import sys
import time

from absl import flags

import preflight
from tools.launchers import BACKENDS, Backend, Job, base
from training.metrics import in_bucket

ACTIONS = ("create", "setup", "run", "watch", "logs", "status", "delete")
RUNS_SOMETHING = ("run", "watch")
PROGRAMS = {
    "gcloud": "the Google Cloud SDK",
    "sbatch": "SLURM; start from a login node",
    "sky": "SkyPilot",
    "gcluster": "Google's Cluster Toolkit",
}

# What follows from how a job stands; nothing but waiting for the others.
NEXT = {
    base.ABSENT: ("create",),
    base.LOST: ("delete", "create"),
    base.READY: ("setup", "run"),
    base.FAILED: ("run",),
}


def parse_flags(argv: list[str]) -> tuple[str, flags.FlagValues, tuple[str, ...]]:
    """(action, flags, flags for main.py). Raises ValueError or flags.Error for what is unknown or lacks."""
    found = flags.FlagValues()  # its own: several tools in one process keep their names
    found.set_gnu_getopt(True)
    add = {"flag_values": found}
    flags.DEFINE_enum("backend", None, list(BACKENDS), "Where to run.", required=True, **add)
    flags.DEFINE_string("name", None, "Of the slice and of the run; letters, digits and -.", required=True, **add)
    flags.DEFINE_string("config", None, "main.py's.", **add)
    flags.DEFINE_string("workdir", None, "main.py's; a bucket, where machines come and go.", **add)
    flags.DEFINE_string("accelerator", "", "v5e-16, v5p-256 (cores), tpu7x:2x2x2, or a node's GPUs: h100:8.", **add)
    flags.DEFINE_integer("nodes", 1, "slurm, sky: how many such nodes.", lower_bound=1, **add)
    flags.DEFINE_bool("spot", False, "Cheaper, and can be taken away.", **add)
    flags.DEFINE_string("zone", "", "Google Cloud.", **add)
    flags.DEFINE_string("project", "", "Google Cloud.", **add)
    flags.DEFINE_list("hosts", [], "ssh: [user@]host, the first one coordinates.", **add)
    flags.DEFINE_string("cluster", "", "gcluster: the GKE cluster.", **add)
    flags.DEFINE_string("image", "", "gcluster: a container image with code and packages.", **add)
    flags.DEFINE_string("partition", "", "slurm.", **add)
    flags.DEFINE_integer("hours", 0, "slurm: time limit of a job, which goes on in the next one.", **add)
    flags.DEFINE_string("python", "3.12", "Installed on every machine.", **add)
    flags.DEFINE_string("requirements", "requirements-gpu.txt", "ssh: what is installed there.", **add)
    flags.DEFINE_multi_string("extra", [], "Handed to the command that creates or submits, as it is.", **add)
    flags.DEFINE_bool("dry_run", False, "Print the commands.", **add)
    flags.DEFINE_bool("preflight", True, "run, watch: try the run's buckets from here before anything starts.", **add)
    flags.DEFINE_float("poll_s", 60, "watch: seconds between looks.", lower_bound=0, **add)
    flags.DEFINE_integer("max_failures", 3, "watch: runs that fail, preemptions apart.", lower_bound=0, **add)
    flags.DEFINE_bool("delete_after", False, "watch: delete the slice when the run is done.", **add)
    if "--help" in argv:
        print(__doc__, found.get_help(), sep="\n")
        sys.exit()
    split = argv.index("--") if "--" in argv else len(argv)
    words = found(argv[:split])[1:]
    if len(words) != 1 or words[0] not in ACTIONS:
        raise ValueError(f"give one action of {', '.join(ACTIONS)}; got {' '.join(words) or 'none'}")
    return words[0], found, tuple(argv[split + 1 :])


def job_of(action: str, options: flags.FlagValues, more: tuple[str, ...]) -> Job:
    """The job that the flags describe. Raises ValueError for flags that the backend does not take, or lacks."""
    name, backend = options.backend, BACKENDS[options.backend]
    fields = [field for field in Job._fields if field not in ("name", "command")]
    for field in fields:
        if options[field].present and field not in backend.uses:
            raise ValueError(f"--{field} says nothing to --backend={name}, which takes {', '.join(backend.uses)}")
    for field in (*backend.needs, *(("config", "workdir") if action in RUNS_SOMETHING else ())):
        if not options[field].value:
            raise ValueError(f"--backend={name} needs --{field} to {action}")
    if not options.name.replace("-", "").isalnum() or options.name != options.name.lower():
        raise ValueError(f"--name={options.name} must be of small letters, digits and -")
    command = ("main.py", f"--config={options.config}", f"--workdir={options.workdir}", *more)
    values = {field: options[field].value for field in fields}
    return Job(options.name, command, **{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def check(backend: Backend, job: Job) -> None:
    """Whether the backend is there and lets us in, asked before anything is billed. Raises ValueError in one line."""
    if not shutil.which(backend.program):
        raise ValueError(
            f"{backend.program} is not installed ({PROGRAMS.get(backend.program, 'a program of the system')}); "
            "nothing was started"
        )
    for step in backend.check(job):
        answer = base.ask(step)
        if not answer.ok:
            reason = next((line for line in reversed(answer.error.splitlines()) if line.strip()), "no reason given")
            raise ValueError(f"{' '.join(step.argv[:4])} ... refuses, nothing was started: {reason.strip()}")


def buckets(job: Job) -> dict[str, bool]:
    """{address: whether it is written to} of the buckets in the run's flags."""
    words = [word.partition("=") for word in job.command]
    return {value: flag == "--workdir" for flag, _, value in words if in_bucket(value)}


def watch(backend: Backend, job: Job, poll_s: float, max_failures: int) -> None:
    """Brings the job to its end through whatever preempts it. Raises ValueError where it cannot.

    Can be stopped and started again at any moment: what is to be done next follows from what there is.
    """
    failures, silent, before = 0, 0, None
    while (state := backend.observe(job, base.ask)) != base.DONE:
        if state != before:
            tell(job, state)
            failures *= state != base.LOST  # the preemption explains them
        failures += state == base.FAILED
        silent = silent + 1 if state == base.UNKNOWN else 0
        if state == base.REFUSED or failures > max_failures or silent > PATIENCE:
            raise ValueError(f"{job.name} is {state} ({failures} failures); see logs. What was created is still there")
        try:
            for action in NEXT.get(state, ()):
                base.execute(getattr(backend, action)(job), dry_run=False)
        except ValueError as error:  # it may have been preempted in the middle, which the next look tells
            tell(job, error)
            failures += 1
            time.sleep(poll_s)
        if state not in NEXT:
            time.sleep(poll_s)
        before = state
    tell(job, base.DONE)


def tell(job: Job, what) -> None:
    print(f"{time.strftime('%H:%M:%S')} {job.name}: {what}", flush=True)


PATIENCE = 30  # looks without an answer


def plan(backend: Backend, job: Job, action: str, delete_after: bool) -> list[base.Step]:
    """The steps of an action; of watch, those of its first round, as if everything went well."""
    if action != "watch":
        return getattr(backend, action)(job)
    parts = [backend.check, backend.create, backend.setup, backend.run, *([backend.delete] if delete_after else [])]
    return [step for part in parts for step in part(job)]


def act(action: str, options: flags.FlagValues, job: Job) -> None:
    backend = BACKENDS[options.backend]
    if action == "watch" and backend.observe is None:
        raise ValueError(f"--backend={options.backend} starts preempted jobs again by itself: use run")
    steps = plan(backend, job, action, options.delete_after)  # wrong slices are refused here
    if not options.dry_run:
        check(backend, job)
        if action in RUNS_SOMETHING and options.preflight:
            preflight.check(buckets(job))
    if action == "watch" and not options.dry_run:
        watch(backend, job, options.poll_s, options.max_failures)
        steps = backend.delete(job) if options.delete_after else []
    if not steps and action != "watch":
        print(f"--backend={options.backend} has nothing to {action}")
    base.execute(steps, options.dry_run)


def main(argv: list[str]) -> None:
    try:
        action, options, more = parse_flags(argv)
        act(action, options, job_of(action, options, more))
    except (flags.Error, ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv)
