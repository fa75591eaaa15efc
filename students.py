"""Distillation of a config: the student's objective, and its teacher, a run in another workdir."""

import functools
from collections.abc import Callable
from typing import Any

from etils import epath

import workdir as records
from calls import Call, construct, parse_call
from diffusion.distillation import SIGMA_MIN
from diffusion.losses import LEARNS_VARIANCE
from diffusion.schedules import LEARNED
from training import ema
from training.checkpoint import Checkpoints, absolute
from training.distill import METHODS, Method, Setting
from training.objective import Apply, Diffusion
from training.tasks import Task
from training.warm_start import split_step

# What a teacher has as its student has it. The rest (times, weighting, optimiser, data) may differ.
SAME = ("family", "latent", "task.name", "task.low_size", "task.inpaint", "data.shape", "data.classes",
        "text.encoder", "model", "diffusion.schedule", "diffusion.prediction", "diffusion.uncertainty")  # fmt: skip
OWN = ("model.remat", "model.flash", "model.dtype", "model.dropout")  # but for these
PARTLY = {  # and of these what is made of them here
    "task.drop": bool,
    "task.augment": bool,
    "diffusion.loss": lambda text: parse_call(text, "diffusion.loss").name in LEARNS_VARIANCE,
}
UNGUIDED = (None, 1)  # 1 is the same in two passes, and what a command line can say


def method_of(config, apply: Apply, task: Task, diffusion: Diffusion) -> Method | None:
    """What the student is asked; None where the config distils nothing. Raises ValueError, in one line."""
    section = config.distill
    if not section.method:
        if section.teacher:
            raise ValueError(f"distill.teacher={section.teacher} teaches nothing: set distill.method")
        return None
    call = parse_call(section.method, "distill.method")
    learned = parse_call(config.diffusion.schedule, "diffusion.schedule").name in LEARNED
    if config.diffusion.loss != "weighted" or config.diffusion.uncertainty or learned:
        raise ValueError("distill.method takes diffusion.loss=weighted, no uncertainty, and a schedule that is fixed")
    if dict(call.arguments).get("guidance") is not None and not config.task.drop:
        raise ValueError(f"distill.method={section.method} needs a teacher trained with task.drop > 0, and so the same")
    setting = Setting(apply, task, diffusion, tuple(config.ema.decays))
    method = construct(METHODS, call, "distill.method", setting)
    if method.taught and not section.teacher:
        raise ValueError(f"distill.method={section.method} needs a teacher: set distill.teacher, its workdir")
    if section.teacher and not method.taught:
        raise ValueError(f"distill.method={section.method} has no teacher: leave out distill.teacher={section.teacher}")
    check_sampling(config, call)
    return method


def check_sampling(config, call: Call) -> None:
    """Raises ValueError, naming the key, where the config samples otherwise than its student is taught to."""
    section, asked = config.sampling, dict(call.arguments)
    sampler, more = parse_call(section.sampler, "sampling.sampler")
    more = dict(more)
    if call.name == "progressive":
        right = {
            "sampler=ddim(eta=0.0)": sampler == "ddim" and not more.get("eta"),
            "grid=trailing": section.grid == "trailing",
            f"steps={asked['steps']}": section.steps == asked["steps"],
        }
    else:
        ends = [of.get("sigma_min", SIGMA_MIN) for of in (asked, more)]
        right = {f"sampler=consistency(sigma_min={ends[0]})": sampler == "consistency" and ends[0] == ends[1]}
    if asked.get("guidance") is not None:
        right["guidance=None (or 1)"] = section.guidance in UNGUIDED
    for key, held in right.items():
        if not held:
            found = section[key.partition("=")[0]]
            raise ValueError(f"distill.method={config.distill.method} needs sampling.{key}, and it is {found} here")


def read_teacher(config) -> tuple[str, int | None, Any]:
    """(workdir, step or None, its config). Raises ValueError where there is none, or none of the student's kind."""
    where, step = split_step(config.distill.teacher)
    path = epath.Path(absolute(where)) / "config.json"
    if not path.exists():
        raise ValueError(f"distill.teacher={where}: no run is there ({path} is missing); train one first")
    own = records.read_config(absolute(where))
    check_alike(config, own, where)
    check_stage(config, own, where)
    return where, step, own


def check_alike(config, own, where: str) -> None:
    """Raises ValueError with what differs between a student's config and its teacher's own."""
    found = {key: pair for key, pair in records.differences(config, own).items() if apart(key, *pair)}
    if found:
        listed = "; ".join(f"{key}: {theirs} there, {ours} here" for key, (theirs, ours) in found.items())
        raise ValueError(f"distill.teacher={where} is of another kind ({listed}); make them the same")


def apart(key: str, theirs, ours) -> bool:
    """Whether networks with these two values of a key, which differ, are of two kinds."""
    if key in PARTLY:
        return PARTLY[key](theirs) != PARTLY[key](ours)
    return key.startswith(SAME) and not key.startswith(OWN)


def check_stage(config, own, where: str) -> None:
    """Raises ValueError where the teacher is a student itself, and not of the stage before this."""
    if not own.distill.method:
        return
    call, theirs = (parse_call(each.distill.method, "distill.method") for each in (config, own))
    steps, before = (dict(each.arguments).get("steps") for each in (call, theirs))
    if (call.name, theirs.name) != ("progressive", "progressive") or before != 2 * steps:
        raise ValueError(
            f"distill.teacher={where} is a student itself, of {own.distill.method}: it can teach "
            + (f"progressive(steps={before // 2}) alone" if before and before > 1 else "nothing")
        )
    if "guidance" in dict(call.arguments):
        raise ValueError(f"distill.teacher={where} has its guidance in it: leave it out of {config.distill.method}")
    scale = config.sampling.guidance
    if own.sampling.guidance in UNGUIDED and scale not in UNGUIDED:
        raise ValueError(
            f"distill.teacher={where} samples without guidance: set sampling.guidance=None (or 1), not {scale}"
        )


def teacher_weights(own) -> str:
    """The average that teaches, and that the student starts from: the first of the teacher's config."""
    return ema.first_name(own.ema)


def with_teacher(config, frozen: Callable[..., Any], abstract_frozen, abstract) -> tuple[Callable[..., Any], Any]:
    """(frozen(training=False, without=()), shapes), with the teacher's parameters among those of training.

    abstract: the shapes and layout of the student's own, which are the teacher's too.
    """
    if not config.distill.teacher:
        return lambda training=False, without=(): frozen(without), abstract_frozen

    @functools.cache
    def teacher():
        where, step, own = read_teacher(config)
        checkpoints = Checkpoints(where, read_only=True)
        step = checkpoints.latest() if step is None else step
        if step is None:
            raise ValueError(f"distill.teacher={where}: no checkpoint there yet")
        return checkpoints.restore_weights(step, teacher_weights(own), abstract)

    def with_it(training: bool = False, without=()):
        return {**(frozen(without) or {}), "teacher": teacher()} if training else frozen(without)

    return with_it, {**(abstract_frozen or {}), "teacher": abstract}
