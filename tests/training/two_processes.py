"""One process of several that train the little problem: WORKDIR PORT PROCESSES ID STEPS [AXIS [PATIENT]].

It prints each step as it is taken, slowly enough to be killed in between; from its PATIENT-th step on a step takes two
seconds, so that a signal sent there arrives in time on any machine.
"""

import itertools
import pathlib
import sys
import time

import jax
import numpy as np
from absl import logging

sys.path[:0] = [str(pathlib.Path(__file__).parent), str(pathlib.Path(__file__).parents[2])]

from problem import batch_at, make  # noqa: E402

from input_pipeline.batches import local_rows  # noqa: E402
from training import hosts, loop, sharding  # noqa: E402
from training.checkpoint import Checkpoints  # noqa: E402
from training.interrupt import Interrupted  # noqa: E402
from training.metrics import Silent, Writer  # noqa: E402

SLOW = 0.1  # seconds a step


def batches(mesh, start):
    while True:
        rows = local_rows(8, **sharding.batch_share(mesh))
        yield sharding.put_batch({name: values[rows] for name, values in batch_at(start).items()}, mesh)
        start += 1


def work(step, state, check):
    """A hook that takes its time, as an evaluation does."""
    for _ in range(5):
        check()
        time.sleep(SLOW)


def main(workdir, port, processes, process, steps, axis="data", patient="inf"):
    hosts.connect(f"127.0.0.1:{port}", int(processes), int(process))
    mesh = sharding.make_mesh({"data": 1, "fsdp": 1, "tensor": 1} | {axis: -1})
    state, train_step = make()
    whole = sharding.replicated(mesh)
    like = sharding.laid_out(state, jax.tree.map(lambda _: whole, state))
    checkpoints = Checkpoints(workdir)
    start = checkpoints.latest()
    state = jax.device_put(jax.device_get(state), whole) if start is None else checkpoints.restore(start, like)

    taken = itertools.count(1)

    def slowly(state, frozen, batch):
        time.sleep(2 if next(taken) > float(patient) else SLOW)
        print("step", flush=True)
        return train_step(state, frozen, batch)

    writer = Writer(workdir, start or 0) if hosts.writes() else Silent()
    options = loop.Options(int(steps), 8, log_every=5, checkpoint_every=5, max_skipped=3)
    hook = loop.Hook(10, work, lambda step: False)
    data = batches(mesh, start or 0)
    try:
        loop.train(state, None, slowly, data, checkpoints, writer, pathlib.Path(workdir), (hook,), options)
    except Interrupted as interrupted:
        sys.exit(128 + interrupted.signum)
    np.save(pathlib.Path(workdir) / f"seen_{process}.npy", next(batches(mesh, 0))["x"].addressable_shards[0].data)


if __name__ == "__main__":
    logging.set_verbosity(logging.ERROR)
    main(*sys.argv[1:])
