"""What main.py can do: train, sample, evaluate. Each takes the config and the flags."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath

import drawing
import workdir as records
from evaluation.images import make_grid, save_png
from evaluation.results import Result
from evaluation.small_images import ImageSet, judge
from experiment import Experiment, Settings, build, check_batches, settings_of
from input_pipeline import facts
from training import ema, posthoc
from training.checkpoint import Checkpoints, absolute
from training.loop import Hook, Options
from training.loop import train as run_loop
from training.metrics import Silent, Writer, write_json
from training.objective import METRIC_LABELS
from training.warm_start import warm_start


def train(config, flags) -> None:
    """Trains to config.train.steps, from the workdir's latest checkpoint if it has one."""
    began = time.perf_counter()
    workdir = epath.Path(absolute(flags.workdir))
    experiment = build(config)
    check_batches(config, experiment.mesh)
    check_evaluators(config)
    data = facts(experiment.source(config.data.train_split))
    if config.log.validation_every:
        experiment.source(config.data.eval_split)  # a split that is not there is found now
    held = records.lock(workdir)  # noqa: F841  as long as this function runs
    checkpoints = Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.keep_every)
    changed = check_run(config, workdir, checkpoints, data, flags.allow_config_change)
    state, start = first_state(config, experiment, checkpoints)
    posthoc.drop_snapshots_after(workdir, start)
    if start < config.train.steps:
        (workdir / "done.json").unlink(missing_ok=True)
    records.write_config(workdir, config)
    records.record_start(workdir, mode="train", step=start, changed=changed, data=data)

    writer = Writer(workdir, step=start) if jax.process_index() == 0 else Silent()
    writer.write_hparams(records.flatten(config))
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    writer.write_texts(start, {"parameters": table})
    parameters = parameter_overview.count_parameters(state.params)
    seconds = time.perf_counter() - began
    logging.info(
        "%s parameters, step %d to %d, set up in %.1f s",
        f"{parameters:,}",
        start,
        config.train.steps,
        seconds,
    )
    options = Options(
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        log_every=config.log.every,
        checkpoint_every=config.checkpoint.every,
        max_skipped=config.optim.max_skipped,
        profile_from=config.log.profile_from,
        metric_labels=METRIC_LABELS,
    )
    hooks = (
        sample_hook(config, experiment, workdir, writer),
        validation_hook(config, experiment, workdir, writer),
        posthoc.snapshot_hook(workdir, config.ema.snapshot_every, config.ema.sigma_rels),
    )
    batches = experiment.batches(start)
    run_loop(state, None, experiment.train_step, batches, checkpoints, writer, workdir, hooks, options)
    writer.close()
    checkpoints.close()
    skipped = experiment.source(config.data.train_split).skipped()
    write_json(workdir / "done.json", {"steps": config.train.steps, "at": records.now(), "skipped_images": skipped})
    logging.info("done: %d steps, everything lies in %s", config.train.steps, workdir)


def check_run(config, workdir, checkpoints: Checkpoints, data: dict, allow: bool) -> dict:
    """What a resume changes; ValueError where it would not be the same run. {} for a run without a checkpoint."""
    step = checkpoints.latest()
    if step is None:
        return {}
    if step > config.train.steps:
        raise ValueError(f"this run is at step {step}, past train.steps={config.train.steps}; use another --workdir")
    changed = records.check_resume(config, records.read_config(workdir), allow)
    if not allow:
        records.check_data(data, records.last_start(workdir, "train").get("data"))
    return changed


def first_state(config, experiment: Experiment, checkpoints: Checkpoints):
    """(state, step): the latest checkpoint's, or a new one, warm-started where the config says from what."""
    step = checkpoints.latest()
    if step is not None:
        logging.info("resuming from checkpoint %d", step)
        state = checkpoints.restore(step, experiment.abstract)
        seed = jax.device_put(np.uint32(config.seed), experiment.abstract.extra["seed"].sharding)
        return state.replace(extra=state.extra | {"seed": seed}), step  # another only by --allow_config_change
    state = experiment.init()
    if config.init_from:
        state = warm_start(state, config.init_from, config.init_weights, config.init_pattern)
    return state, 0


def sample_hook(config, experiment: Experiment, workdir, writer) -> Hook:
    """A grid of samples under the first average: samples/step_00001000.png."""
    seeds = np.arange(config.sampling.grid_images)
    name = ema.name(config.ema.decays[0])

    def path(step):
        return workdir / "samples" / f"step_{step:08}.png"

    def run(step, state, check):
        labels = drawing.training_labels(experiment, config, seeds)
        images = drawing.draw(experiment, config, state.ema[name], seeds, labels, settings_of(config), check)
        save_png(path(step), make_grid(images))
        writer.write_images(step, {"samples": make_grid(images)})

    return Hook(config.log.samples_every, run, lambda step: path(step).exists())


def validation_hook(config, experiment: Experiment, workdir, writer) -> Hook:
    """The deterministic validation loss, of the parameters and of each average."""

    def run(step, state, check):
        weights = {"raw": state.params, **state.ema}
        values = {f"validation_loss/{name}": experiment.validation_loss(w, check)[0] for name, w in weights.items()}
        writer.write_scalars(step, values)
        logging.info("step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in values.items()))

    def done(step):
        path = workdir / "metrics.jsonl"
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        return any(line["step"] == step and "validation_loss/raw" in line for line in lines)

    return Hook(config.log.validation_every, run, done)


def asked_settings(config, flags) -> Settings:
    """config.sampling, overridden by the flags that were given."""
    given = {key: flags[key].value for key in ("sampler", "steps", "guidance")}
    return settings_of(config)._replace(**{key: value for key, value in given.items() if value is not None})


class Weights(NamedTuple):
    """Restored parameters and where they are from."""

    params: dict
    step: int
    name: str


def restored(config, experiment: Experiment, workdir, flags) -> Weights:
    """The weights that --checkpoint and --ema ask for; the latest and the config's first average by default."""
    name = flags.ema or ema.name(config.ema.decays[0])
    checkpoints = posthoc.holding(workdir, name)
    step = checkpoints.latest() if flags.checkpoint is None else flags.checkpoint
    if step is None:
        raise ValueError(f"no checkpoint in {checkpoints.directory} yet: train first, or name another --workdir")
    params = checkpoints.restore_weights(step, name, experiment.abstract.params)
    return Weights(params, step, name)


def sample(config, flags) -> None:
    """Draws --num images into OUT/samples.npz, grid.png and settings.json."""
    workdir = epath.Path(absolute(flags.workdir))
    experiment = build(config)
    settings = asked_settings(config, flags)
    seeds = flags.seed + np.arange(flags.num)
    labels, source = drawing.asked_labels(flags.label, config, workdir, seeds)
    weights = restored(config, experiment, workdir, flags)
    out = epath.Path(absolute(flags.out)) if flags.out else workdir / "samples" / f"sample_{weights.step:08}"
    began = time.perf_counter()
    images = drawing.draw(experiment, config, weights.params, seeds, labels, settings)
    seconds = time.perf_counter() - began
    drawing.write_samples(out, images, labels, seeds)
    columns = config.data.classes if source == "balanced" and config.data.classes <= 16 else None
    save_png(out / "grid.png", make_grid(images[:64], columns))
    facts = provenance(config, experiment, weights, settings, flags) | {"num": flags.num, "labels": source}
    write_json(out / "settings.json", facts)
    logging.info("%d images in %.1f s (compilation included): %s", flags.num, seconds, out / "grid.png")


def provenance(config, experiment: Experiment, weights: Weights, settings: Settings, flags) -> dict:
    """What a picture or a number depends on."""
    return {
        "checkpoint": weights.step,
        "ema": weights.name,
        "seed": flags.seed,
        **settings._asdict(),
        "network_calls": experiment.calls(settings),
        "schedule": config.diffusion.schedule,
        "prediction": config.diffusion.prediction,
        "dtype": config.model.dtype,
        "to_uint8": "round",
        "data": {key: config.data[key] for key in ("name", "dataset", "shape", "preprocess")},
        "git": records.git_state(),
        "command": sys.argv,
        "at": records.now(),
    }


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
    value, n = experiment.validation_loss(weights.params)
    draws, weighting = config.evaluation.validation_draws, config.diffusion.weighting
    yield "validation_loss", Result(value, dict(split=config.data.eval_split, n=n, draws=draws, weighting=weighting))


def evaluate_small_images(config, experiment, weights, settings, seed) -> Iterator[tuple[str, Result]]:
    """The judgement of evaluation/small_images.py, on evaluation.samples images labelled as the training set is."""
    seeds = seed + np.arange(config.evaluation.samples)
    labels = drawing.training_labels(experiment, config, seeds)
    began = time.perf_counter()
    images = drawing.draw(experiment, config, weights.params, seeds, labels, settings)
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
