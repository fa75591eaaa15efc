"""--mode=evaluate: a checkpoint's numbers, each with what it depends on."""

import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import logging
from etils import epath

import conditions
import drawing
from diffusion import cascade
from evaluation.classifier import agreement, support_vectors
from evaluation.images import to_uint8
from evaluation.results import Result
from evaluation.small_images import ImageSet, judge
from evaluation.super_resolution import judge as judge_super_resolution
from experiment import build
from input_pipeline import digits
from modes.weights import asked_settings, provenance, restored
from training.checkpoint import absolute
from training.metrics import write_json
from training.tasks import normalise


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


def evaluate_super_resolution(config, experiment, weights, settings, seed) -> Iterator[tuple[str, Result]]:
    """The judgement of evaluation/super_resolution.py on held-out images: eight samples of each, made larger again."""
    if not config.task.low_size:
        raise ValueError("evaluation.evaluators: super_resolution is of models with task.low_size")
    batch = drawing.examples(experiment, config.data.eval_split, config.evaluation.samples)
    given = {name: np.asarray(rows) for name, rows in experiment.task.given(batch).items()}
    given["low_res"] = to_uint8(given["low_res"])
    n = len(given["low_res"])
    seeds = seed + np.arange(8 * n).reshape(8, n)
    draws = [drawing.draw(experiment, config, weights.params, part, given, settings) for part in seeds]
    yield from judge_super_resolution(np.stack(draws), batch["image"], given["low_res"], resized)


def resized(images: np.ndarray, size) -> np.ndarray:
    """uint8 images [b h w c] through the resize of cascades."""
    return to_uint8(np.asarray(cascade.resize(normalise(images), size)))


def evaluate_wordings(config, experiment, weights, settings, seed) -> Iterator[tuple[str, Result]]:
    """Digits from prompts alone: the share read as asked, in wordings of the training and in ones kept from it."""
    real = [everything(experiment.source(split), 0) for split in (config.data.train_split, config.data.eval_split)]
    classify = support_vectors(*real[0])
    yield "read/real", Result(agreement(classify, *real[1]), {"n": len(real[1].labels), "classifier": "SVC, pixels"})
    seeds = seed + np.arange(config.evaluation.samples)
    for name, wordings in ("seen", digits.WORDINGS), ("held_out", digits.HELD_OUT_WORDINGS):
        asked = seeds % 10
        prompts = [digits.prompt(wordings[seed // 10 % len(wordings)], digit) for seed, digit in zip(seeds, asked)]
        rows, _ = conditions.told(experiment, prompts)
        images = drawing.draw(experiment, config, weights.params, seeds, rows, settings)
        facts = {"n": len(seeds), "wordings": len(wordings), "classifier": "SVC, pixels"}
        yield f"read/{name}_wordings", Result(agreement(classify, images, asked), facts)


EVALUATORS: dict[str, Callable] = {
    "validation_loss": evaluate_validation_loss,
    "small_images": evaluate_small_images,
    "super_resolution": evaluate_super_resolution,
    "wordings": evaluate_wordings,
}


def check_evaluators(config) -> None:
    for name in config.evaluation.evaluators:
        if name not in EVALUATORS:
            choices = ", ".join(sorted(EVALUATORS))
            raise ValueError(f"evaluation.evaluators: {name!r} is unknown; choose from {choices}")
