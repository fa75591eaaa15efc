"""--mode=evaluate: a checkpoint's numbers, each with what it depends on."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging
from etils import epath

import drawing
from evaluation.results import Result
from evaluation.small_images import ImageSet, judge
from experiment import build
from modes.weights import asked_settings, provenance, restored
from training.checkpoint import absolute
from training.metrics import write_json


def evaluate(config, flags) -> None:
    """Runs the config's evaluators and writes evaluation.json, the settings beside every number."""
    workdir = epath.Path(absolute(flags.workdir))
    check_evaluators(config)
    experiment = build(config)
    settings = asked_settings(config, flags)
    weights = restored(config, experiment, workdir, flags)
    out = epath.Path(absolute(flags.out)) if flags.out else workdir
    results = {}
    for evaluator in config.evaluation.evaluators:
        for name, result in EVALUATORS[evaluator](config, experiment, weights, settings, flags.seed):
            results[name] = result.as_dict()
            logging.info("%s  %.4f", name, result.value)
    report = {"results": results, "settings": provenance(config, experiment, weights, settings, flags)}
    write_json(out / "evaluation" / f"step_{weights.step:08}.json", report)
    write_json(out / "evaluation.json", report)
    logging.info("judged: %s", out / "evaluation.json")


def evaluate_validation_loss(config, experiment, weights, settings, seed) -> Iterator[tuple[str, Result]]:
    """The deterministic validation loss on the evaluation split."""
    value, n = experiment.validation_loss(weights.params, experiment.frozen())
    draws, weighting = config.evaluation.validation_draws, config.diffusion.weighting
    yield "validation_loss", Result(value, dict(split=config.data.eval_split, n=n, draws=draws, weighting=weighting))


def evaluate_small_images(config, experiment, weights, settings, seed) -> Iterator[tuple[str, Result]]:
    """The judgement of evaluation/small_images.py, on evaluation.samples images labelled as the training set is."""
    seeds = seed + np.arange(config.evaluation.samples)
    condition = drawing.training_condition(experiment, config, seeds)
    labels = condition.get("label")
    began = time.perf_counter()
    images = drawing.draw(experiment, config, weights.params, seeds, condition, settings)
    yield (
        "sampling_seconds",
        Result(time.perf_counter() - began, {"n": len(seeds), "compilation": "included"}),
    )
    real = [everything(experiment.source(split), labels) for split in (config.data.train_split, config.data.eval_split)]
    yield from judge(ImageSet(images, labels), *real)


def everything(source, labels) -> ImageSet:
    """All readable images of a source, labelled if the samples are."""
    batch = source.read(np.arange(source.size))
    kept = batch["valid"]
    return ImageSet(batch["image"][kept], None if labels is None else batch["label"][kept])


EVALUATORS: dict[str, Callable] = {
    "validation_loss": evaluate_validation_loss,
    "small_images": evaluate_small_images,
}


def check_evaluators(config) -> None:
    for name in config.evaluation.evaluators:
        if name not in EVALUATORS:
            choices = ", ".join(sorted(EVALUATORS))
            raise ValueError(f"evaluation.evaluators: {name!r} is unknown; choose from {choices}")
