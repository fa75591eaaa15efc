"""--mode=train: the loop between a config and its workdir."""

import functools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np
from absl import logging
from clu import parameter_overview
from etils import epath
from ml_collections import ConfigDict

import drawing
import workdir as records
from checks import check_batches
from evaluation.images import make_grid, save_png
from experiment import Experiment, abstract_batch, build, model_flops
from input_pipeline import facts
from modes.evaluators import check_evaluators
from modes.latents import with_statistics
from plans import settings_of
from students import read_teacher, teacher_weights
from training import ema, hosts, posthoc
from training.checkpoint import Checkpoints, absolute, named
from training.chips import chip_of
from training.loop import Hook, Options
from training.loop import train as run_loop
from training.metrics import Silent, Writer, write_json
from training.state import TrainState
from training.trackers import All, Wandb
from training.warm_start import flat, read_start, warm_start


class Run(NamedTuple):
    """A training that is set up: all that lies between its config and its first step."""

    config: ConfigDict
    workdir: epath.Path
    state: TrainState
    start: int
    train_step: Callable
    checkpoints: Checkpoints
    writer: Writer
    hooks: tuple[Hook, ...]
    options: Options
    held: object  # the workdir's lock, held as long as this is


def train(config, flags) -> None:
    """Trains to config.train.steps, from the workdir's latest checkpoint if it has one."""
    began = time.perf_counter()
    workdir = epath.Path(absolute(flags.workdir))
    config = with_statistics(config, workdir)
    experiment = build(config)
    run = begin(config, experiment, workdir, flags.allow_config_change)
    parameters = parameter_overview.count_parameters(run.state.params)
    seconds = time.perf_counter() - began
    logging.info(
        "%s parameters, step %d to %d, set up in %.1f s", f"{parameters:,}", run.start, config.train.steps, seconds
    )
    run_loop(
        run.state,
        experiment.frozen(training=True),
        run.train_step,
        experiment.batches(run.start),
        run.checkpoints,
        run.writer,
        run.workdir,
        run.hooks,
        run.options,
    )
    finish(run, experiment)


def begin(config, experiment: Experiment, workdir, allow_config_change: bool = False) -> Run:
    """Takes the workdir, restores or makes the state, and records the start. Raises ValueError in one line."""
    check_batches(config, experiment.mesh)
    check_evaluators(config)
    if config.distill.teacher:
        read_teacher(config)
    data = facts(experiment.source(config.data.train_split))
    if config.log.validation_every:
        experiment.source(config.data.eval_split)  # a split that is not there is found now
    held = records.lock(workdir)
    checkpoints = Checkpoints(workdir, config.checkpoint.keep, config.checkpoint.keep_every)
    changed = check_run(config, workdir, checkpoints, data, allow_config_change)
    taken = first_weights(config, experiment) if checkpoints.latest() is None else {}
    train_step = experiment.train_step
    if (checkpoints.latest() or 0) < config.train.steps:
        train_step = compiling(experiment, abstract_batch(config, experiment.mesh, config.train.batch_size))
    state, start = first_state(config, experiment, checkpoints, taken)
    posthoc.drop_snapshots_after(workdir, start)
    if start < config.train.steps and hosts.writes():
        (workdir / "done.json").unlink(missing_ok=True)
    records.write_config(workdir, config)
    records.record_start(workdir, mode="train", step=start, changed=changed, data=data)

    writer = open_writer(config, workdir, start)
    writer.write_hparams(records.flatten(config))
    table = parameter_overview.get_parameter_overview(state.params, include_stats=False)
    writer.write_texts(start, {"parameters": table})
    options = Options(
        steps=config.train.steps,
        batch_size=config.train.batch_size,
        log_every=config.log.every,
        checkpoint_every=config.checkpoint.every,
        max_skipped=config.optim.max_skipped,
        profile_from=config.log.profile_from,
        metric_labels=experiment.metric_labels,
        **model_speed(config),
    )
    hooks = (
        sample_hook(config, experiment, workdir, writer),
        validation_hook(config, experiment, workdir, writer),
        posthoc.snapshot_hook(workdir, config.ema.snapshot_every, config.ema.sigma_rels),
    )
    return Run(config, workdir, state, start, train_step, checkpoints, writer, hooks, options, held)


def compiling(experiment: Experiment, batch) -> Callable:
    """The train step, which from now on compiles beside what else a start takes; its first call waits for that."""
    step, abstract = experiment.train_step, (experiment.abstract, experiment.abstract_frozen, batch)
    compiled = ThreadPoolExecutor(1).submit(lambda: step.lower(*abstract).compile())

    def train_step(*args):
        compiled.result()
        return step(*args)  # finds what was compiled

    return train_step


def open_writer(config, workdir, start: int):
    """Where metrics go: the workdir, and a project of Weights & Biases where the config names one."""
    if not hosts.writes():
        return Silent()
    writer = Writer(workdir, step=start)
    return All(writer, Wandb(config.log.wandb, workdir)) if config.log.wandb else writer


def model_speed(config) -> dict:
    """What MFU takes, on chips whose peak is published; tracing for it costs seconds, so not on a CPU."""
    chip = chip_of(jax.devices()[0].device_kind)
    return {"flops": model_flops(config), "peak_flops": chip.flops * jax.device_count()} if chip else {}


def finish(run: Run, experiment: Experiment) -> None:
    """Closes what is open and says in done.json that the run is complete."""
    run.writer.close()
    run.checkpoints.close()
    steps, skipped = run.config.train.steps, experiment.source(run.config.data.train_split).skipped()
    write_json(run.workdir / "done.json", {"steps": steps, "at": records.now(), "skipped_images": skipped})
    logging.info("done: %d steps, everything lies in %s", steps, run.workdir)


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


def first_weights(config, experiment: Experiment) -> dict[str, jax.Array]:
    """{name: array} of the parameters that a new run takes from another, of init_from or its teacher; {} for none."""
    params = experiment.abstract.params
    if config.init_from:
        return read_start(params, config.init_from, config.init_weights, config.init_pattern)
    if config.distill.teacher:
        taken = read_start(params, config.distill.teacher, teacher_weights(read_teacher(config)[2]), ".*")
        if missing := flat(params).keys() - taken.keys():
            raise ValueError(
                f"distill.teacher={config.distill.teacher} has no {named(sorted(missing))} of its student's shape: its "
                "checkpoint must be of the same network"
            )
        return taken
    return {}


def first_state(config, experiment: Experiment, checkpoints: Checkpoints, taken: dict[str, jax.Array]):
    """(state, step): the latest checkpoint's, or a new one with the parameters `taken`."""
    step = checkpoints.latest()
    if step is not None:
        logging.info("resuming from checkpoint %d", step)
        state = checkpoints.restore(step, experiment.abstract)
        numbers = {"seed": np.uint32(config.seed), "lr": np.float32(config.optim.lr)}
        where = experiment.abstract.extra["seed"].sharding
        extra = state.extra | jax.device_put(numbers, where)  # others only by --allow_config_change
        return state.replace(extra=extra), step
    state = experiment.init(config.seed, config.optim.lr)
    return (warm_start(state, taken) if taken else state), 0


def sample_hook(config, experiment: Experiment, workdir, writer) -> Hook:
    """A grid of samples under the first average: samples/step_00001000.png. None of weights that give NaN."""
    seeds = np.arange(config.sampling.grid_images)
    name = ema.first_name(config.ema)

    def path(step):
        return workdir / "samples" / f"step_{step:08}.png"

    def run(step, state, check):
        condition = drawing.training_condition(experiment, config, seeds)
        try:
            images = drawing.draw(experiment, config, state.ema[name], seeds, condition, settings_of(config), check)
        except drawing.NotFinite as error:  # the loop says when a training that diverges stops
            logging.warning("step %d: no picture: %s", step, error)
            return
        save_png(path(step), make_grid(images))
        writer.write_images(step, {"samples": make_grid(images)})

    return Hook(config.log.samples_every, run, lambda step: path(step).exists())


def validation_hook(config, experiment: Experiment, workdir, writer) -> Hook:
    """The deterministic validation loss, of the parameters and of each average; never of a family that has none."""

    def run(step, state, check):
        loss = functools.partial(experiment.validation_loss, frozen=experiment.frozen(), check=check)
        weights = {"raw": state.params, **state.ema}
        values = {f"validation_loss/{name}": loss(params)[0] for name, params in weights.items()}
        writer.write_scalars(step, values)
        logging.info("step %d  %s", step, "  ".join(f"{name} {value:.4f}" for name, value in values.items()))

    def done(step):
        path = workdir / "metrics.jsonl"
        lines = map(json.loads, path.read_text().splitlines() if path.exists() else ())
        return any(line["step"] == step and "validation_loss/raw" in line for line in lines)

    return Hook(config.log.validation_every if experiment.validation_loss else 0, run, done)
