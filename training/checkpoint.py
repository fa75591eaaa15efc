"""Checkpoints: Orbax behind one class. The checkpoint called k holds k updates, and position in the data is k."""

import contextlib
import dataclasses
import os
from collections.abc import Callable
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint import checkpoint_managers

from training.state import TrainState


class Checkpoints:
    """A folder of checkpoints in a workdir. Saving is asynchronous; a kill in a write leaves the last whole one.

    keep: how many of the newest, None for all; keep_every: those at its multiples stay for good.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        keep: int | None = 2,
        keep_every: int = 0,
        read_only: bool = False,
        folder: str = "checkpoints",
    ):
        self.directory = epath.Path(absolute(workdir)) / folder
        if read_only and not self.directory.exists():
            raise ValueError(f"no {folder} in {workdir}: train there first, or name another --workdir")
        policies = [checkpoint_managers.LatestN(keep)]
        if keep_every:
            policies.append(checkpoint_managers.EveryNSteps(keep_every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        self.manager = ocp.CheckpointManager(
            self.directory, options=options, item_handlers=ocp.PyTreeCheckpointHandler()
        )

    def latest(self) -> int | None:
        return self.manager.latest_step()

    def steps(self) -> list[int]:
        return sorted(self.manager.all_steps())

    def save(self, step: int, state: TrainState, facts: dict | None = None) -> None:
        """Starts a save unless this step is there; the state may be donated once this returns. facts: for JSON."""
        if step not in self.manager.all_steps():
            self.manager.save(step, args=ocp.args.PyTreeSave(as_dict(state)), custom_metadata=facts, force=True)

    def facts(self, step: int) -> dict:
        """What was said of this step when it was saved."""
        with whole(self.directory / str(step)):
            return self.manager.metadata(step).custom_metadata

    def delete(self, step: int) -> None:
        self.manager.delete(step)

    def restore(self, step: int, like: TrainState) -> TrainState:
        """The whole state, laid out like the abstract state `like`. Raises ValueError naming leaves that differ."""
        return TrainState(**self._read(step, as_dict(like), partial=False))

    def restore_weights(self, step: int, name: str, like: Callable[[Any], Any] | Any) -> Any:
        """The parameters of one average, or of name 'raw'; nothing else is read. like: abstract parameters."""
        stored = self.weight_names(step)
        if name not in stored:
            raise ValueError(f"checkpoint {step} has no weights {name!r}; --ema can be {', '.join(stored)}")
        if name == "raw":
            return self._read(step, {"params": like}, partial=True)["params"]
        return self._read(step, {"ema": {name: like}}, partial=True)["ema"][name]

    def weight_names(self, step: int) -> list[str]:
        stored = self.metadata(step)
        return [*stored["ema"], *(["raw"] if stored["params"] else [])]

    def metadata(self, step: int) -> dict:
        """The stored tree, with shapes in place of arrays. Raises ValueError for a step that is not there."""
        if step not in self.manager.all_steps():
            steps = ", ".join(map(str, self.steps())) or "none"
            raise ValueError(f"no checkpoint {step} in {self.directory}; there are: {steps}")
        with whole(self.directory / str(step)):
            return self.manager.item_metadata(step).tree

    def _read(self, step: int, like: dict, partial: bool) -> dict:
        stored = self.metadata(step)
        compare({key: stored.get(key, {}) for key in like} if partial else stored, like, step, partial)
        restore_args = ocp.checkpoint_utils.construct_restore_args(like)
        with whole(self.directory / str(step)):
            return self.manager.restore(
                step, args=ocp.args.PyTreeRestore(like, restore_args=restore_args, partial_restore=partial)
            )

    def wait(self) -> None:
        """Returns when every save that was started is on disk; raises what went wrong in one."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()


@contextlib.contextmanager
def whole(path):
    """Turns what TensorStore and Orbax say of a damaged checkpoint, in pages, into one line."""
    try:
        yield
    except Exception as error:
        first = (str(error).splitlines() or [""])[0][:150]
        raise ValueError(
            f"checkpoint {path} is damaged ({first}); remove that folder to go on from an older one"
        ) from error


def as_dict(state: TrainState) -> dict:
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def absolute(path: str | os.PathLike) -> str:
    """Orbax refuses relative paths, and only after the first save; a bucket's address stays as it is."""
    path = os.fspath(path)
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def shapes(tree) -> dict[str, tuple]:
    """Every leaf's name, parts joined by '/', and shape."""
    return {"/".join(map(part_name, path)): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}


def part_name(part) -> str:
    return str(getattr(part, "key", getattr(part, "name", getattr(part, "idx", part))))


def compare(stored, wanted, step: int, partial: bool = False) -> None:
    """Raises ValueError naming what is missing, unexpected or of another shape in a checkpoint."""
    have, want = shapes(stored), shapes(wanted)
    missing = sorted(want.keys() - have.keys())
    surplus = [] if partial else sorted(have.keys() - want.keys())
    other = [f"{name} is {have[name]}, not {want[name]}" for name in sorted(have.keys() & want.keys())
             if have[name] != want[name]]  # fmt: skip
    if missing or surplus or other:
        found = [f"missing {named(missing)}"] * bool(missing) + [f"unexpected {named(surplus)}"] * bool(surplus)
        found += [named(other)] * bool(other)
        raise ValueError(f"checkpoint {step} is of another model or optimiser: {'; '.join(found)}")


def named(names: list[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
