"""What an evaluation leaves for people: one page with numbers, pictures and curves."""

import json

import numpy as np
from etils import epath

from evaluation import page
from evaluation.charts import Series, chart
from evaluation.images import make_grid
from evaluation.neighbours import nearest_of
from evaluation.prompts import sheet
from input_pipeline.source import some
from modes.candidate import Candidate
from modes.evaluators import better, names
from training.metrics import write_atomic

SHOWN = 64  # samples in the grid
BESIDE = 16  # of them beside their nearest training images
SHEET = 400  # prompts whose images are shown, DrawBench's 200 among them
ROUNDS = 8  # images of each
AMONG = 10_000  # training images that those are looked for in


def path(out: epath.Path, step: int) -> epath.Path:
    return out / "evaluation" / f"step_{step:08}.json"


def point(candidate: Candidate, results: dict) -> dict:
    """One point of a sweep."""
    settings = candidate.settings
    calls = candidate.experiment.calls(settings)
    return {"guidance": settings.guidance, "steps": settings.steps, "network_calls": calls, "results": results}


def write_page(out: epath.Path, report: dict, candidate: Candidate) -> None:
    """evaluation.html: nothing in it is loaded from elsewhere."""
    settings = report["settings"]
    sections = [
        ("Numbers", page.numbers(report["results"])),
        ("Samples", samples(candidate)),
        *prompts(candidate),
        ("Samples beside their nearest training images", neighbours(candidate)),
        ("Guidance and steps", sweep(report.get("sweep", []), names(candidate.config.evaluation.pareto))),
        ("Along the training", along(out, candidate)),
        ("Settings", page.settings(settings)),
    ]
    title = f"Evaluation of step {settings['checkpoint']}, average {settings['ema']}"
    write_atomic(out / "evaluation.html", page.page(title, sections).encode())


def samples(candidate: Candidate) -> str:
    if not candidate.drawn:
        return ""
    images = candidate.samples.read(0, min(SHOWN, candidate.samples.n))
    return page.picture(make_grid(images), f"seeds {candidate.seed} to {candidate.seed + len(images) - 1}")


def prompts(candidate: Candidate) -> list[tuple[str, str]]:
    """A sheet of the prompts, by category, where there are few: the images of each, one for every round of seeds."""
    asked = candidate.judge.prompts
    if not candidate.drawn or not 0 < len(asked) <= SHEET:
        return []
    rounds = min(candidate.samples.n // len(asked), ROUNDS)
    images = candidate.samples.read(0, rounds * len(asked))
    return sheet(asked, images.reshape(rounds, len(asked), *images.shape[1:]).swapaxes(0, 1)) if rounds else []


def neighbours(candidate: Candidate) -> str:
    """Pairs: a sample, and right of it the training image that is nearest in pixels."""
    if not candidate.drawn:
        return ""
    images = candidate.samples.read(0, min(BESIDE, candidate.samples.n))
    source = some(candidate.experiment.source(candidate.config.data.train_split), AMONG)
    if source.shape != images.shape[1:]:
        return ""
    distance, index = nearest_of(images, lambda start, stop: source.read(np.arange(start, stop))["image"], source.size)
    real = source.read(index)["image"]
    pairs = np.stack([images, real], axis=1).reshape(-1, *images.shape[1:])
    said = f"nearest of {source.size} training images; distances {', '.join(f'{d:.2f}' for d in distance)}"
    return page.picture(make_grid(pairs, columns=8), said)


def sweep(points: list[dict], pareto: list[str]) -> str:
    """A table of the points, and the chosen two numbers against each other with the front that none beats in both."""
    if not points:
        return ""
    common = [name for name in points[-1]["results"] if all(name in point["results"] for point in points)]
    rows = [[one["guidance"], one["steps"], *(one["results"][name]["value"] for name in common)] for one in points]
    found = page.table(["guidance", "steps", *common], rows)
    if len(pareto) != 2 or not set(pareto) <= set(common):
        return found
    xy = [tuple(one["results"][name]["value"] for name in pareto) for one in points]
    labels = [f"{one['guidance']}, {one['steps']}" for one in points]
    best = sorted(place for place in xy if not any(beats(other, place, pareto) for other in xy))
    return chart([Series("guidance, steps", xy, labels, line=False), Series("front", best)], *pareto) + found


def beats(a, b, pareto) -> bool:
    """Whether place a is better than b in one number and not worse in the other."""
    return any(better(*each) for each in zip(pareto, a, b)) and not any(better(*each) for each in zip(pareto, b, a))


def along(out: epath.Path, candidate: Candidate) -> str:
    """Every number of two or more judged checkpoints against the step, beside the training's losses."""
    reports = [json.loads(file.read_text()) for file in sorted((out / "evaluation").glob("step_*.json"))]
    if len(reports) < 2:
        return ""
    curves: dict[str, list] = {}
    for report in reports:
        for name, result in report["results"].items():
            if name != "sampling_seconds" and result["value"] is not None:
                curves.setdefault(name, []).append((report["settings"]["checkpoint"], result["value"]))
    first = min(report["settings"]["checkpoint"] for report in reports)
    charts = [chart(losses(candidate.judge.workdir, first), "step", "loss", "losses of the training")]
    charts += [chart([Series(name, points)], "step", name, name) for name, points in curves.items()]
    return "".join(charts)


def losses(workdir: epath.Path, first: int) -> list[Series]:
    """The training loss and the validation losses of metrics.jsonl, from step `first` on."""
    file = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    lines = [line for line in lines if line["step"] >= first]
    shown = dict.fromkeys(name for line in lines for name in line if is_loss(name))
    return [Series(name, [(line["step"], line[name]) for line in lines if line.get(name)]) for name in shown]


def is_loss(name: str) -> bool:
    return name == "loss" or name.startswith("validation_loss")
