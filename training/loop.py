"""The training loop: steps, and between them metrics, checkpoints and hooks. It knows nothing of what is trained."""

import collections
import contextlib
import resource
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
    flops: int = 0  # of a step by the model; 0 where it is not to be told
    peak_flops: float = 0.0  # a second, of all devices; 0 where it is not known
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
                    with report.waiting():
                        batch = next(batches)
                    with jax.transfer_guard("disallow"):
                        state, sums = train_step(state, frozen, batch)
                done = step + 1
                report.add(sums)
                in_flight.append(sums)
                if len(in_flight) > IN_FLIGHT:
                    jax.block_until_ready(in_flight.popleft())
                    report.completed()

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
        self.first, self.out = step + 1, 0.0
        self.begin(step)

    def begin(self, step: int) -> None:
        """The next window."""
        self.window, self.since, self.step = [], self.now(), step
        self.waited, self.ends = 0.0, []

    def now(self) -> float:
        """Seconds of training: the clock stands still while `paused`."""
        return time.perf_counter() - self.out

    def add(self, sums) -> None:
        self.window.append(sums)

    def completed(self) -> None:
        """A step has left the device."""
        self.ends.append(self.now())

    @contextlib.contextmanager
    def paused(self):
        """A context whose time does not count as training."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.out += time.perf_counter() - began

    @contextlib.contextmanager
    def waiting(self):
        """A context whose time is spent waiting for input."""
        began = self.now()
        yield
        self.waited += self.now() - began

    def write(self, step: int) -> None:
        """Reads the window, writes its means and speed, and starts the next. Raises Diverged."""
        if not self.window:
            return
        window = jax.device_get(self.window)
        seconds = self.now() - self.since
        scalars = means(window, self.options.metric_labels)
        in_a_row = max(int(sums["skipped_in_a_row"][0]) for sums in window)
        scalars["skipped_in_a_row"] = in_a_row
        scalars["skipped"] = len(window) - int(sum(sums["gradient_norm"][1] for sums in window))
        if step == self.first:
            scalars["first_step_seconds"] = seconds
        else:
            scalars |= self.speed(step - self.step, seconds)
        scalars |= memory()
        self.writer.write_scalars(step, scalars)
        self.writer.flush()
        self._tell(step, scalars, seconds)
        self.begin(step)
        if in_a_row >= self.options.max_skipped:
            raise Diverged(
                f"{in_a_row} non-finite gradients in a row by step {step} (window {step - len(window) + 1} to {step}); "
                "lower optim.lr, or look at the data"
            )

    def speed(self, steps: int, seconds: float) -> dict[str, float]:
        """How fast the window's steps were, and what they waited for. MFU where the chip's peak is known."""
        options = self.options
        found = {"images_per_second": options.batch_size * steps / seconds, "input_wait": self.waited / seconds}
        if len(self.ends) > 1:
            names = ("step_seconds/median", "step_seconds/p95", "step_seconds/most")
            found |= dict(zip(names, map(float, np.quantile(np.diff(self.ends), (0.5, 0.95, 1.0)))))
        if options.flops:
            found["flops_per_second"] = options.flops * steps / seconds
        if options.flops and options.peak_flops:
            found["mfu"] = found["flops_per_second"] / options.peak_flops
        return found

    def _tell(self, step: int, scalars: dict, seconds: float) -> None:
        left = (self.options.steps - step) * seconds / max(step - self.step, 1)
        speed = scalars.get("images_per_second")
        pace = f"{speed:.0f} images/s, {clock(left)} left" if speed else f"first step after {seconds:.1f} s"
        trivial = f" (trivial {scalars['trivial_loss']:.4f})" if "trivial_loss" in scalars else ""
        logging.info("step %d/%d  loss %.4f%s  %s", step, self.options.steps, scalars["loss"], trivial, pace)
        write_json(self.workdir / "heartbeat.json", {"step": step, "time": time.time(), **scalars})


def memory() -> dict[str, float]:
    """The most that this process has held, in bytes: on the host, and on its first device where that counts."""
    stats = jax.local_devices()[0].memory_stats() or {}
    device = {"device_memory_peak": float(stats["peak_bytes_in_use"])} if "peak_bytes_in_use" in stats else {}
    return device | {"host_memory_peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


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
