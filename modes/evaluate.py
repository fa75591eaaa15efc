"""--mode=evaluate: a checkpoint's numbers, each with what it depends on; or every checkpoint's, as they come."""

import itertools
import time

import jax
from absl import logging
from etils import epath

import workdir as records
from evaluation.results import Result
from experiment import build
from modes import report as reports
from modes.candidate import Candidate
from modes.evaluators import EVALUATORS, NEEDS, OF_SAMPLES, better, check_evaluators, names
from modes.judge import Judge
from modes.weights import Weights, asked_settings, holding, provenance, restored
from plans import Settings
from training import hosts, posthoc
from training.checkpoint import absolute
from training.interrupt import Interrupt
from training.metrics import write_json

POLL_SECONDS = 10


def evaluate(config, flags) -> None:
    """Runs the config's evaluators and writes evaluation.json and evaluation.html, the settings beside every number.

    With --watch every checkpoint that has no judgement yet, and those that come, until the training is done.
    """
    workdir = epath.Path(absolute(flags.workdir))
    check_evaluators(config)
    experiment = build(config)
    settings = asked_settings(config, flags)
    judge = Judge(config, experiment, workdir)
    for name in names(config.evaluation.evaluators):
        NEEDS.get(name, lambda judge: None)(judge)
    out = epath.Path(absolute(flags.out)) if flags.out else workdir
    if flags.watch and jax.process_count() > 1:
        raise ValueError("--watch is of one process: each that looked would see other checkpoints")
    with Interrupt() as interrupt:
        if flags.watch:
            watch(judge, settings, flags, out, interrupt.check)
        else:
            weights = restored(config, experiment, workdir, flags)
            evaluate_weights(judge, weights, settings, flags, out, interrupt.check)


def watch(judge: Judge, settings: Settings, flags, out, check) -> None:
    """Judges checkpoints in their order; one that the training's retention removes first is passed over."""
    passed = set()
    while True:
        done = (judge.workdir / "done.json").exists()
        steps = [step for step in holding(judge.config, judge.workdir, flags).steps() if step not in passed]
        for step in steps:
            passed.add(step)
            if reports.path(out, step).exists():
                continue
            try:
                weights = restored(judge.config, judge.experiment, judge.workdir, flags, step)
            except ValueError as error:
                logging.warning("checkpoint %d is passed over: %s", step, error)
                continue
            evaluate_weights(judge, weights, settings, flags, out, check)
        if done and not steps:
            return
        if not steps:
            check()
            time.sleep(POLL_SECONDS)


def evaluate_weights(judge: Judge, weights: Weights, settings: Settings, flags, out, check) -> None:
    """All numbers of one checkpoint, at the asked settings and over the sweep, into the files."""
    candidates = [
        Candidate(judge, weights, each, flags.seed, out / "evaluation", check)
        for each in (settings, *swept(judge.config, settings))
    ]
    for candidate in candidates:  # settings that cannot be are found before anything is drawn
        judge.experiment.calls(candidate.settings)
    first, *others = candidates
    evaluators = names(judge.config.evaluation.evaluators)
    results = results_of(first, evaluators)
    facts = provenance(judge.config, judge.experiment, weights, settings, flags)
    report = {"results": results, "settings": facts | {"labels": labels_of(judge)}}
    if others:
        of_samples = [name for name in evaluators if name in OF_SAMPLES]
        points = [(first, results), *((one, results_of(one, of_samples)) for one in others)]
        report["sweep"] = [reports.point(one, found) for one, found in points]
    write_json(reports.path(out, weights.step), report)
    write_json(out / "evaluation.json", report)
    reports.write_page(out, report, first)
    if not judge.config.evaluation.keep_samples:
        for candidate in candidates:
            candidate.forget()
    keep_best(judge, weights, results)
    logging.info("judged: %s", out / "evaluation.html")


def swept(config, settings: Settings) -> list[Settings]:
    """The settings of the sweep but for the asked ones: every guidance with every number of steps."""
    section = config.evaluation
    guidances, steps = section.sweep_guidance or (settings.guidance,), section.sweep_steps or (settings.steps,)
    grid = [settings._replace(guidance=w, steps=n) for w, n in itertools.product(guidances, steps)]
    return [each for each in grid if each != settings]


def results_of(candidate: Candidate, evaluators) -> dict[str, dict]:
    results = {}
    for evaluator in evaluators:
        for name, result in EVALUATORS[evaluator](candidate):
            results[name] = result.as_dict()
            logging.info("%s  %.4f", name, result.value)
    if candidate.drawn:
        seconds = Result(candidate.seconds, {"n": candidate.samples.n, "compilation": "included"})
        results["sampling_seconds"] = seconds.as_dict()
    return results


def labels_of(judge: Judge) -> str:
    return judge.config.evaluation.labels if judge.experiment.task.labels else "none"


def keep_best(judge: Judge, weights: Weights, results: dict) -> None:
    """Where evaluation.best names a number: the weights with the best value so far, for good, for --ema=best."""
    name = judge.config.evaluation.best
    if not name:
        return
    if name not in results:
        raise ValueError(f"evaluation.best={name!r} is not among the numbers: {', '.join(results)}")
    value, path = results[name]["value"], judge.workdir / "best.json"
    stood = records.read_json(path) if path.exists() else None
    if stood and stood["name"] != name:
        raise ValueError(f"{path} keeps the best {stood['name']}, and evaluation.best={name!r}: move it and best/ away")
    if not hosts.agreed(stood is None or better(name, value, stood["value"])):
        return
    facts = {"name": name, "value": value, "step": weights.step, "ema": weights.name}
    posthoc.save(judge.workdir, posthoc.BEST, weights.step, {posthoc.BEST: weights.params}, facts, alone=True)
    write_json(path, facts | {"at": records.now()})
    logging.info("the best %s so far: %.4f at step %d", name, value, weights.step)
