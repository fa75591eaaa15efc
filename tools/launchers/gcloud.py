"""What the two backends that use gcloud share."""

from tools.launchers.base import ABSENT, UNKNOWN, Answer, Job
from training.chips import Slice, parse_slice


def at(job: Job) -> tuple[str, ...]:
    return f"--zone={job.zone}", f"--project={job.project}"


def slice_of(job: Job, chips: tuple[str, ...], instead: str) -> Slice:
    """The slice that the job asks for; ValueError where this backend has no such chips."""
    asked = parse_slice(job.accelerator)
    if asked.chip not in chips:
        raise ValueError(f"--accelerator={job.accelerator}: this backend has {', '.join(chips)}; {instead}")
    return asked


def without_answer(answer: Answer) -> str:
    """Why nothing was told: only what is certainly not there counts as absent, so that nothing is made twice."""
    words = answer.error.lower()
    return ABSENT if "not_found" in words or "was not found" in words else UNKNOWN
