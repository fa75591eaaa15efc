"""The training loop: steps, and between them metrics, checkpoints and hooks. It knows nothing of what is trained."""

import collections
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from absl import logging

from training import hosts
from training.checkpoint import Checkpoints
from training.interrupt import Interrupt, Interrupted
from training.metrics import Writer, write_json
from training.state import TrainState


class Hook(NamedTuple):
    """Something done to the state at every multiple of `every` and at the end; `done` says it already stands."""

    every: int
    run: Callable[[int, TrainState, Callable[[], None]], None]  # (step, state, check); check() raises Interrupted
    done: Callable[[int], bool]


class Options(NamedTuple):
    """What the loop is told in numbers, durations in steps."""

    steps: int
    batch_size: int
    log_every: int
    checkpoint_every: int
    max_skipped: int
    profile_from: int = 0
    metric_labels: dict[str, tuple[str, ...]] = {}  # names of the entries of metrics that are vectors


class Diverged(RuntimeError):
    """Too many non-finite gradients in a row."""


IN_FLIGHT = 2  # steps dispatched ahead of the device: enough to hide the host, few enough to stop at once
PROFILED = 5  # steps in a trace


def train(
    state: TrainState,
    frozen,
    train_step: Callable,
    batches: Iterator,
    checkpoints: Checkpoints,
    writer: Writer,
    workdir,
    hooks: tuple[Hook, ...],
    options: Options,
) -> TrainState:
    """Steps from state.step to options.steps. batches: device arrays, from state.step on.

    Saves every `checkpoint_every` steps, at the end, and before it raises Interrupted on SIGTERM or SIGINT, in a
    step or in a hook. Raises Diverged after `max_skipped` non-finite gradients in a row.
    """
    done = start = int(jax.device_get(state.step))
    report = Report(writer, workdir, start, options)
    profile = Profile(options.profile_from, workdir)
    in_flight = collections.deque()

    with Interrupt() as interrupt:
        try:
            with report.paused():
                run_hooks(hooks, done, state, interrupt.check, resumed=True, last=done == options.steps)
            for step in range(start, options.steps):
                profile.before(step, state)
                with jax.profiler.StepTraceAnnotation("train", step_num=step):
                    batch = next(batches)
                    with jax.transfer_guard("disallow"):
                        state, sums = train_step(state, frozen, batch)
                done = step + 1
                report.add(sums)
                in_flight.append(sums)
                if len(in_flight) > IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())

                last = done == options.steps
                if done % options.log_every == 0 or last or done == start + 1:
                    report.write(done)
                if done % options.checkpoint_every == 0 or last:
                    with report.paused():
                        checkpoints.save(done, state)
                with report.paused():
                    run_hooks(hooks, done, state, interrupt.check, last=last)
                interrupt.check()
        except Interrupted as signal:
            logging.info("%s: saving step %d before going", signal, done)
            report.write(done)
            checkpoints.save(done, state)
            raise
        finally:
            profile.stop(state)
            checkpoints.wait()
            writer.flush()
    return state


def run_hooks(hooks, step: int, state, check, resumed: bool = False, last: bool = False) -> None:
    """Those that are due. At a start, only what an interruption left undone."""
    for hook in hooks:
        due = hook.every and step and (step % hook.every == 0 or last)
        if due and not (resumed and hosts.agreed(hook.done(step))):
            hook.run(step, state, check)


class Profile:
    """Traces PROFILED steps from `first` on (0: none) into workdir/profile, fewer if the run ends before."""

    def __init__(self, first: int, workdir):
        self.first, self.folder, self.on = first, str(workdir / "profile"), False

    def before(self, step: int, state) -> None:
        if self.first and step == self.first:
            jax.profiler.start_trace(self.folder)
            self.on = True
        if step == self.first + PROFILED:
            self.stop(state)

    def stop(self, state) -> None:
        if self.on:
            jax.block_until_ready(state)
            jax.profiler.stop_trace()
            self.on = False


class Report:
    """Metrics of the steps since the last line: kept on the device, read once a window."""

    def __init__(self, writer: Writer, workdir, step: int, options: Options):
        self.writer, self.workdir, self.options = writer, workdir, options
        self.window, self.since, self.step = [], time.perf_counter(), step
        self.first = step + 1

    def add(self, sums) -> None:
        self.window.append(sums)

    def paused(self):
        """A context whose time does not count as training."""
        return Paused(self)

    def write(self, step: int) -> None:
        """Reads the window, writes its means and speed, and starts the next. Raises Diverged."""
        if not self.window:
            return
        window = jax.device_get(self.window)
        seconds = time.perf_counter() - self.since
        scalars = means(window, self.options.metric_labels)
        in_a_row = max(int(sums["skipped_in_a_row"][0]) for sums in window)
        scalars["skipped_in_a_row"] = in_a_row
        scalars["skipped"] = len(window) - int(sum(sums["gradient_norm"][1] for sums in window))
        if step == self.first:
            scalars["first_step_seconds"] = seconds
        else:
            scalars["images_per_second"] = self.options.batch_size * (step - self.step) / seconds
        self.writer.write_scalars(step, scalars)
        self.writer.flush()
        self._tell(step, scalars, seconds)
        self.window, self.since, self.step = [], time.perf_counter(), step
        if in_a_row >= self.options.max_skipped:
            raise Diverged(
                f"{in_a_row} non-finite gradients in a row by step {step} (window {step - len(window) + 1} to {step}); "
                "lower optim.lr, or look at the data"
            )

    def _tell(self, step: int, scalars: dict, seconds: float) -> None:
        left = (self.options.steps - step) * seconds / max(step - self.step, 1)
        speed = scalars.get("images_per_second")
        pace = f"{speed:.0f} images/s, {clock(left)} left" if speed else f"first step after {seconds:.1f} s"
        trivial = f" (trivial {scalars['trivial_loss']:.4f})" if "trivial_loss" in scalars else ""
        logging.info("step %d/%d  loss %.4f%s  %s", step, self.options.steps, scalars["loss"], trivial, pace)
        write_json(self.workdir / "heartbeat.json", {"step": step, "time": time.time(), **scalars})


class Paused:
    """Moves a report's clock on by the time spent inside."""

    def __init__(self, report: Report):
        self.report = report

    def __enter__(self):
        self.began = time.perf_counter()

    def __exit__(self, *exception):
        self.report.since += time.perf_counter() - self.began


def means(window: list[dict], labels: dict[str, tuple[str, ...]]) -> dict[str, float]:
    """Total over count of each metric over a window of sums; a vector gives one scalar for each label with a count."""
    scalars = {}
    for name in window[0]:
        total = np.sum([sums[name][0] for sums in window], axis=0, dtype=np.float64)
        count = np.sum([sums[name][1] for sums in window], axis=0, dtype=np.float64)
        if np.ndim(total) == 0:
            scalars[name] = float(total / count) if count else float("nan")
        else:
            pairs = zip(labels[name], total, count, strict=True)
            scalars |= {f"{name}/{label}": float(t / n) for label, t, n in pairs if n}
    return scalars


def clock(seconds: float) -> str:
    """1:02:03, or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
