"""Evaluators of samples that are given something: prompts whose digit is known, smaller versions of real images."""

from collections.abc import Iterator

import numpy as np

import conditions
import drawing
from diffusion import cascade
from evaluation import super_resolution as sr
from evaluation.classifier import agreement, support_vectors
from evaluation.images import to_uint8
from evaluation.results import Result
from input_pipeline import digits
from modes.candidate import Candidate
from training.tasks import normalise

Results = Iterator[tuple[str, Result]]
DRAWS = 8  # samples of each smaller image
REAL = 5000  # images that a classifier is trained on, at most


def super_resolution(candidate: Candidate) -> Results:
    """The judgement of evaluation/super_resolution.py: held-out images made smaller, and larger again eight times."""
    config, experiment = candidate.config, candidate.experiment
    if not config.task.low_size:
        raise ValueError("evaluation.evaluators: super_resolution is of models with task.low_size")
    batch = drawing.examples(experiment, config.data.eval_split, config.evaluation.samples)
    given = {name: np.asarray(rows) for name, rows in experiment.task.given(batch).items()}
    given["low_res"] = to_uint8(given["low_res"])
    seeds = candidate.seed + np.arange(DRAWS * len(batch["image"])).reshape(DRAWS, -1)
    samples = np.stack([candidate.draw(part, given) for part in seeds])
    yield from sr.judge(samples, batch["image"], given["low_res"], resized)


def resized(images: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 images [b h w c] through the resize of cascades."""
    return to_uint8(np.asarray(cascade.resize(normalise(images), size)))


def wordings(candidate: Candidate) -> Results:
    """Digits from prompts alone: the share read as asked, in the wordings of the training and in those kept from it."""
    config, experiment = candidate.config, candidate.experiment
    splits = config.data.train_split, config.data.eval_split
    train, held_out = (drawing.examples(experiment, split, REAL) for split in splits)
    classify, facts = support_vectors(train["image"], train["label"]), {"classifier": "SVC on raw pixels"}
    real = agreement(classify, held_out["image"], held_out["label"])
    yield "read/held_out_images", Result(real, {"n": len(held_out["label"])} | facts)
    seeds = candidate.seed + np.arange(config.evaluation.samples)
    for name, texts in ("seen", digits.WORDINGS), ("held_out", digits.HELD_OUT_WORDINGS):
        asked = seeds % 10
        prompts = [digits.prompt(texts[seed // 10 % len(texts)], digit) for seed, digit in zip(seeds, asked)]
        images = candidate.draw(seeds, conditions.told(experiment, prompts)[0])
        read = agreement(classify, images, asked)
        yield f"read/{name}_wordings", Result(read, {"n": len(seeds), "wordings": len(texts)} | facts)
