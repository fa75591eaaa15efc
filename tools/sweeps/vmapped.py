"""Cells that differ in seed and learning rate alone, trained in one program on one device.

The train step is mapped over stacked states; data, checkpoints, metrics and hooks stay each cell's own, so that a cell
can be resumed, sampled and judged by main.py as if it had been trained alone.
"""

import collections
import contextlib
import json
from collections.abc import Iterator

import jax
import jax.numpy as jnp

import workdir as records
from experiment import Experiment, build, device_batches
from modes.train import Run, begin, finish
from tools.sweeps.cells import Cell
from training import sharding
from training.interrupt import Interrupt, Interrupted
from training.loop import IN_FLIGHT, Diverged, Report, run_hooks

MAPPED = ("seed", "optim.lr")  # what lives in the state, and so may differ within one program


def groups(cells: list[Cell]) -> list[list[Cell]]:
    """The cells that one program can train."""
    found = collections.defaultdict(list)
    for cell in cells:
        shared = {key: value for key, value in records.flatten(cell.config).items() if key not in MAPPED}
        found[json.dumps(shared, sort_keys=True)].append(cell)
    return list(found.values())


def train_together(cells: list[Cell]) -> dict[str, str]:
    """Trains cells of one group to their end; {name: why} of those that diverged, which stop alone.

    Raises Interrupted, all having saved, on SIGTERM or SIGINT.
    """
    experiment = build(cells[0].config, sharding.data_mesh(jax.devices()[:1]))
    runs = [begin(cell.config, experiment, cell.folder) for cell in cells]
    starts = collections.defaultdict(list)  # a kill between two saves leaves them at different steps
    for run in runs:
        starts[run.start].append(run)
    diverged = {}
    with Interrupt() as interrupt:
        for start, together in sorted(starts.items()):
            diverged |= steps_of(together, experiment, start, interrupt)
    return diverged


def stacked_step(experiment: Experiment):
    """The train step of stacked states and batches, jitted anew: compiler options are of the program that is jitted."""
    return jax.jit(jax.vmap(experiment.train_step.__wrapped__, in_axes=(0, None, 0)), donate_argnums=0)


def steps_of(runs: list[Run], experiment: Experiment, start: int, interrupt: Interrupt) -> dict[str, str]:
    """The loop of training/loop.py over stacked states."""
    options, frozen = runs[0].options, experiment.frozen(training=True)
    train_step = stacked_step(experiment)
    reports = [Report(run.writer, run.workdir, start, options) for run in runs]
    batches = stacked_batches(runs, experiment, start)
    states, window, diverged, done = stack([run.state for run in runs]), [], {}, start
    in_flight = collections.deque()
    try:
        for step in range(start, options.steps):
            states, sums = train_step(states, frozen, next(batches))
            done = step + 1
            window.append(sums)
            in_flight.append(sums)
            if len(in_flight) > IN_FLIGHT:
                jax.block_until_ready(in_flight.popleft())
            last = done == options.steps
            if done % options.log_every == 0 or last or done == start + 1:
                diverged |= write_reports(reports, runs, window, done)
                window = []
                print(f"step {done}/{options.steps} of {len(runs)} cells", flush=True)
            if done % options.checkpoint_every == 0 or last:
                with paused(reports):
                    save(runs, states, done)
            if last or any(hook.every and done % hook.every == 0 for hook in runs[0].hooks):
                with paused(reports):
                    for i, run in enumerate(runs):
                        run_hooks(run.hooks, done, one_of(states, i), interrupt.check, last=last)
            interrupt.check()
    except Interrupted:
        write_reports(reports, runs, window, done)
        save(runs, states, done)
        raise
    finally:
        for run in runs:
            run.checkpoints.wait()
            run.writer.flush()
    for run in runs:
        if run.workdir.name not in diverged:
            finish(run, experiment)
    return diverged


def stacked_batches(runs: list[Run], experiment: Experiment, start: int) -> Iterator[dict]:
    """Every run's own batches, of its seed, one beside the other."""
    each = [device_batches(run.config, experiment.source, experiment.mesh, start) for run in runs]
    return (stack(batches) for batches in zip(*each, strict=True))


def stack(trees: list):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def one_of(tree, i: int):
    return jax.tree.map(lambda leaf: leaf[i], tree)


def write_reports(reports: list[Report], runs: list[Run], window: list, step: int) -> dict[str, str]:
    """Each run's metrics of the window; {name: why} of the runs that have diverged."""
    diverged, window = {}, jax.device_get(window)
    for i, (report, run) in enumerate(zip(reports, runs, strict=True)):
        for sums in window:
            report.add(one_of(sums, i))
        try:
            report.write(step)
        except Diverged as error:
            diverged[run.workdir.name] = str(error)
    return diverged


@contextlib.contextmanager
def paused(reports: list[Report]):
    """A context whose time counts as training for none of them."""
    with contextlib.ExitStack() as clocks:
        for report in reports:
            clocks.enter_context(report.paused())
        yield


def save(runs: list[Run], states, step: int) -> None:
    for i, run in enumerate(runs):
        run.checkpoints.save(step, one_of(states, i))
