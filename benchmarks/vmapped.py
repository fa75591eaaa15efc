"""Many seeds and learning rates in one program against one after the other: seconds, losses, final figures.

    python -m benchmarks.vmapped --cells=12 --steps=30

The tiny digits recipe at batch 32, on one device. Both are stepped by turns, so that what else the machine does falls
on both; CPU seconds are those of this process. Reading data and writing files are left out.
"""

import resource
import time

import jax
import numpy as np
from absl import app, flags

from configs import digits
from experiment import build, device_batches
from tools.sweeps.vmapped import one_of, stack, stacked_step
from training import ema, sharding

FLAGS = flags.FLAGS
RATES = (1e-3, 2e-3, 4e-3)


def configs(cells: int) -> list:
    """Learning rates, each with as many seeds as make up the number."""
    made = []
    for i in range(cells):
        config = digits.get_config("tiny")
        config.train.update(batch_size=32, steps=FLAGS.steps)
        config.optim.warmup = 10
        config.evaluation.validation_images = 297
        config.optim.lr, config.seed = RATES[i % len(RATES)], i // len(RATES)
        made.append(config)
    return made


class Clock:
    """Wall and CPU seconds spent inside."""

    def __init__(self):
        self.wall = self.cpu = 0.0

    def __enter__(self):
        self.began = time.perf_counter(), used()

    def __exit__(self, *exception):
        self.wall += time.perf_counter() - self.began[0]
        self.cpu += used() - self.began[1]


def used() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def mean_loss(sums) -> np.ndarray:
    total, count = jax.device_get(sums["loss"])
    return total / count


def main(argv):
    settings = configs(FLAGS.cells)
    experiment = build(settings[0], sharding.data_mesh(jax.devices()[:1]))
    batches = [device_batches(config, experiment.source, experiment.mesh, 0) for config in settings]
    states = [experiment.init(config.seed, config.optim.lr) for config in settings]
    together = stack(states)
    vmapped = stacked_step(experiment)
    clocks = {name: Clock() for name in ("first, alone", "first, together", "alone", "together")}
    losses = {"alone": [], "together": []}
    for step in range(FLAGS.steps):
        now = [next(one) for one in batches]
        stacked, first = stack(now), "" if step else "first, "
        with clocks[f"{first}alone"]:
            sums = []
            for i, batch in enumerate(now):
                states[i], own = experiment.train_step(states[i], None, batch)
                sums.append(mean_loss(own))
        losses["alone"].append(sums)
        with clocks[f"{first}together"]:
            together, own = vmapped(together, None, stacked)
            losses["together"].append(mean_loss(own))
    for name, clock in clocks.items():
        steps = 1 if "first" in name else FLAGS.steps - 1
        wall, cpu = clock.wall / steps, clock.cpu / steps
        print(f"{name:16} {wall:8.3f} s, CPU {cpu:8.3f} s a step of {FLAGS.cells} cells")
    difference = np.abs(np.subtract(losses["alone"], losses["together"]))
    print(
        f"losses differ by {difference[:10].max():.1e} in the first 10 steps, {difference.max():.1e} in {FLAGS.steps}"
    )
    final(experiment, settings, states, together)


def final(experiment, settings, states, together) -> None:
    """The average's validation loss, both ways, and its deviation over seeds."""
    name = ema.first_name(settings[0].ema)
    alone = [experiment.validation_loss(state.ema[name], None)[0] for state in states]
    mapped = [experiment.validation_loss(one_of(together.ema[name], i), None)[0] for i in range(len(states))]
    spread = np.mean([np.std(alone[i :: len(RATES)], ddof=1) for i in range(len(RATES))])
    print(
        f"final validation losses differ by {np.abs(np.subtract(alone, mapped)).max():.1e}; over seeds by {spread:.1e}"
    )


if __name__ == "__main__":
    flags.DEFINE_integer("cells", 12, "How many, in multiples of 3.", lower_bound=6)
    flags.DEFINE_integer("steps", 30, "Of each.", lower_bound=10)
    app.run(main)
