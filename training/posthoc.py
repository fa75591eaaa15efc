"""Power averages of any width after training, from sparse snapshots of a few.

The average of width sigma_rel after n updates weighs the parameters of time t in [0, n] by the profile
(gamma + 1) t^gamma / n^(gamma + 1). The profile of a width that was not tracked is, nearly, a sum of the snapshots'
profiles; the same sum of the snapshots is the average. Karras et al. 2024 (EDM2, arXiv 2312.02696), section 3 and
appendix C.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from training import ema
from training.checkpoint import Checkpoints, absolute
from training.loop import Hook
from training.state import TrainState

SNAPSHOTS = "ema_snapshots"  # folders of a workdir
POSTHOC = "ema_posthoc"
BEST = "best"  # the weights that an evaluation found the best
POOR = 0.5  # a larger residual is another average than the one asked for
NEGLIGIBLE = 1e-9  # weights that change no float32


class Profile(NamedTuple):
    """Power profiles: where they end, in updates, and their exponents, [k] or []."""

    end: np.ndarray
    gamma: np.ndarray


class Snapshot(NamedTuple):
    """One power average at one step."""

    step: int
    updates: int  # steps but for skipped updates
    name: str
    sigma_rel: float


class Fit(NamedTuple):
    """An average as a sum of snapshots. residual: that of its profile, over the profile's norm."""

    sigma_rel: float
    step: int
    snapshots: list[Snapshot]
    weights: np.ndarray
    residual: float


def name(sigma_rel: float) -> str:
    """'posthoc_0.13': the name under which an average made after training is asked for."""
    return f"posthoc_{float(sigma_rel)!r}"


def inner(a: Profile, b: Profile) -> np.ndarray:
    """The integral of the product of two profiles, broadcast (EDM2, Eq. 151)."""
    early, late = np.minimum(a.end, b.end), np.maximum(a.end, b.end)
    gamma_late = np.where(a.end > b.end, a.gamma, b.gamma)  # the earlier one's powers cancel
    return (a.gamma + 1) * (b.gamma + 1) / (a.gamma + b.gamma + 1) * (early / late) ** gamma_late / late


def solve(given: Profile, wanted: Profile) -> tuple[np.ndarray, float]:
    """(weights [k] of the given profiles, relative residual) of the least-squares fit of the wanted one.

    The weights are divided by their sum, so that parameters at rest are their own average (EDM2, Algorithm 3).
    """
    column = Profile(given.end[:, None], given.gamma[:, None])
    gram, target, square = inner(column, given), inner(given, wanted), inner(wanted, wanted)
    size = np.sqrt(np.diag(gram))
    # of profiles scaled to norm one, and without directions below rounding: many snapshots are nearly dependent
    weights = np.linalg.lstsq(gram / np.outer(size, size), target / size)[0] / size
    weights /= weights.sum()
    error = square - 2 * weights @ target + weights @ gram @ weights
    return weights, float(np.sqrt(max(error, 0) / square))


def fit(snapshots: list[Snapshot], sigma_rel: float, step: int | None = None) -> Fit:
    """The average of width sigma_rel at `step` (the last snapshot's) as a sum of the snapshots up to there.

    Where there is none at `step` the first after it is taken too; later ones add nothing. Raises ValueError for a
    width or a step that the snapshots do not express.
    """
    gamma, last = ema.gamma(sigma_rel), snapshots[-1].step
    step = last if step is None else step
    if not 0 < step <= last:
        raise ValueError(f"step={step} must be from 1 to {last}, the last snapshot")
    horizon = min(snapshot.step for snapshot in snapshots if snapshot.step >= step)
    used = [snapshot for snapshot in snapshots if snapshot.step <= horizon]
    steps, updates = ([0, *(getattr(snapshot, key) for snapshot in used)] for key in ("step", "updates"))
    given = Profile(np.float64(updates[1:]), np.array([ema.gamma(snapshot.sigma_rel) for snapshot in used]))
    weights, residual = solve(given, Profile(np.interp(step, steps, updates), gamma))
    if residual > POOR:
        raise ValueError(
            f"the snapshots do not express sigma_rel={sigma_rel} at step {step}: the fit's residual is {residual:.2f}, "
            f"over {POOR}; take a snapshot's step, a width nearer to theirs, or save more"
        )
    kept = [k for k, weight in enumerate(weights) if abs(weight) > NEGLIGIBLE]
    return Fit(sigma_rel, step, [used[k] for k in kept], weights[kept], residual)


def reconstruct(workdir, fit: Fit, like: Any) -> Any:
    """The average, laid out like the abstract parameters `like`. One snapshot is read at a time: two trees are held."""
    checkpoints = Checkpoints(workdir, read_only=True, folder=SNAPSHOTS)
    total = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding), like)
    for snapshot, weight in zip(fit.snapshots, fit.weights, strict=True):
        total = add(total, checkpoints.restore_weights(snapshot.step, snapshot.name, like), np.float32(weight))
    return total


@functools.partial(jax.jit, donate_argnums=0)
def add(total, average, weight):
    return jax.tree.map(lambda a, b: a + weight * b, total, average)


def write(workdir, fit: Fit, average: Any) -> None:
    """Puts an average where --ema finds it, with what it was made of."""
    used = [[*snapshot, weight] for snapshot, weight in zip(fit.snapshots, fit.weights.tolist(), strict=True)]
    facts = {"sigma_rel": fit.sigma_rel, "residual": fit.residual, "snapshots": used}
    save(workdir, f"{POSTHOC}/{name(fit.sigma_rel)}", fit.step, {name(fit.sigma_rel): average}, facts)


def save(workdir, folder: str, step: int, averages: dict, facts: dict, alone: bool = False) -> None:
    """Averages alone as a checkpoint that stays, in place of one of the same step. Returns when it is whole.

    alone: it is the only one in its folder, others going once it is whole.
    """
    checkpoints = Checkpoints(workdir, keep=None, folder=folder)
    if step in checkpoints.steps():
        checkpoints.delete(step)
    state = TrainState(step=np.asarray(step, np.int32), params={}, ema=averages, opt_state=(), extra={})
    checkpoints.save(step, state, facts)
    checkpoints.wait()
    for other in checkpoints.steps() if alone else ():
        if other != step:
            checkpoints.delete(other)
    checkpoints.close()


def holding(workdir, weights: str) -> Checkpoints:
    """The checkpoints with these weights: the run's own, the best, or those of an average made after training.

    Raises ValueError for such an average that is not there, with what is.
    """
    if weights == BEST:
        return Checkpoints(workdir, read_only=True, folder=BEST)
    if not weights.startswith("posthoc_"):
        return Checkpoints(workdir, read_only=True)
    root = epath.Path(absolute(workdir)) / POSTHOC
    made = sorted(path.name for path in root.iterdir()) if root.exists() else []
    if weights not in made:
        run = Checkpoints(workdir, read_only=True)
        tracked = [] if run.latest() is None else run.weight_names(run.latest())
        raise ValueError(
            f"no average {weights!r} in {workdir}; choose from {', '.join(made + tracked)}, or make it of snapshots: "
            "python -m tools.posthoc_ema"
        )
    return Checkpoints(workdir, read_only=True, folder=f"{POSTHOC}/{weights}")


def read_snapshots(workdir) -> list[Snapshot]:
    """Every average of every snapshot in the workdir, by step. Raises ValueError where there is none."""
    if not snapshot_steps(workdir):
        raise ValueError(f"no {SNAPSHOTS} in {workdir}: train with ema.sigma_rels and ema.snapshot_every set")
    checkpoints = Checkpoints(workdir, read_only=True, folder=SNAPSHOTS)
    facts = {step: checkpoints.facts(step) for step in checkpoints.steps()}
    return [
        Snapshot(step, found["updates"], average, sigma_rel)
        for step, found in facts.items()
        for average, sigma_rel in found["sigma_rels"].items()
        if found["updates"]  # a profile over no time is none
    ]


def snapshot_steps(workdir) -> list[int]:
    there = (epath.Path(absolute(workdir)) / SNAPSHOTS).exists()
    return Checkpoints(workdir, read_only=True, folder=SNAPSHOTS).steps() if there else []


def snapshot_hook(workdir, every: int, sigma_rels: tuple[float, ...]) -> Hook:
    """Saves the power averages, their widths and the number of updates into ema_snapshots/<step>, to stay.

    It waits until they are written: a later checkpoint must not stand without them.
    """
    widths = {ema.power_name(sigma_rel): sigma_rel for sigma_rel in sigma_rels}

    def run(step, state, check):
        updates = int(jax.device_get(state.step - state.extra["skipped"]))
        averages = {average: state.ema[average] for average in widths}
        save(workdir, SNAPSHOTS, step, averages, {"updates": updates, "sigma_rels": widths})

    return Hook(every, run, lambda step: step in snapshot_steps(workdir))


def drop_snapshots_after(workdir, step: int) -> None:
    """A run that goes on from `step` makes its own: those of a branch that was given up must not be mixed with them."""
    later = [found for found in snapshot_steps(workdir) if found > step]
    if later:
        checkpoints = Checkpoints(workdir, keep=None, folder=SNAPSHOTS)
        for found in later:
            checkpoints.delete(found)
        checkpoints.close()
