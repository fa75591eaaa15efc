"""Statistics of real images in a file that says what they were made of, and is refused for anything else.

    reference = cached("cifar10.npz", MadeOf(data=..., split="train", n=50_000, ...), make)

Most disagreements between two published distances are a disagreement about the reference: another split,
another count, another crop or resize, another network.
"""

import hashlib
import io
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from evaluation.features import SEED, SPLITS, Statistics
from evaluation.frechet import Moments
from evaluation.inception_score import ClassSums
from training import hosts
from training.metrics import write_atomic


class MadeOf(NamedTuple):
    """What statistics depend on. Two sets that differ in any of it are not compared as if they were one."""

    data: str  # the set's name and digest
    split: str
    n: int
    shape: tuple[int, ...]  # of the images before the network's resize
    preprocess: str  # how files became images of that shape
    resize: str  # the rule into the network
    network: str  # the sha256 of its weights
    keep: int
    splits: int = SPLITS
    seed: int = SEED  # of the splits

    def as_dict(self) -> dict[str, Any]:
        """As JSON gives it back."""
        return self._asdict() | {"shape": list(self.shape)}


class Reference(NamedTuple):
    """Statistics, what they were made of, and a digest of their numbers."""

    statistics: Statistics
    made_of: MadeOf
    digest: str

    def as_dict(self) -> dict[str, Any]:
        """What a number says of its reference."""
        return self.made_of.as_dict() | {"digest": self.digest}


def cached(path: epath.PathLike, made_of: MadeOf, make: Callable[[], Statistics]) -> Reference:
    """The reference in `path`, made and written there first if need be. Raises what `load` raises."""
    if not epath.Path(path).exists():
        save(path, make(), made_of)
    hosts.agreed(True)  # of several processes one has written it
    return load(path, made_of)


def save(path: epath.PathLike, statistics: Statistics, made_of: MadeOf) -> None:
    """Writes the .npz whole or not at all."""
    arrays, file = flat(statistics), io.BytesIO()
    np.savez(file, made_of=json.dumps(made_of.as_dict()), digest=digest(arrays), **arrays)
    write_atomic(path, file.getvalue())


def load(path: epath.PathLike, made_of: MadeOf) -> Reference:
    """The reference in `path`; ValueError where it is damaged, or was made of anything but `made_of`."""
    try:
        with epath.Path(path).open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        found, said = json.loads(str(arrays.pop("made_of"))), str(arrays.pop("digest"))
        statistics, intact = unflat(arrays), digest(arrays) == said
    except Exception as error:  # zip, NumPy and JSON each raise their own
        raise ValueError(f"{path} holds no reference statistics ({error}): delete it to make it again") from None
    if not intact:
        raise ValueError(f"{path} is damaged: its numbers are not those of its digest; delete it to make it again")
    pairs = {key: (found.get(key), wanted) for key, wanted in made_of.as_dict().items()}
    differing = [f"{key} {was!r}, here {wanted!r}" for key, (was, wanted) in pairs.items() if was != wanted]
    if differing:
        raise ValueError(f"{path} is the reference of something else: {'; '.join(differing)}; name another file")
    return Reference(statistics, made_of, said)


def flat(statistics: Statistics) -> dict[str, np.ndarray]:
    """'pool/mean' and so on; kept and index by their own names."""
    groups = {"pool": statistics.pool, "spatial": statistics.spatial, "classes": statistics.classes}
    there = {group: parts._asdict() for group, parts in groups.items() if parts is not None}
    arrays = {f"{group}/{key}": np.asarray(x) for group, parts in there.items() for key, x in parts.items()}
    return arrays | {"kept": statistics.kept, "index": statistics.index}


def unflat(arrays: dict[str, np.ndarray]) -> Statistics:
    def group(kind, name):
        return kind(**{key: arrays[f"{name}/{key}"] for key in kind._fields})

    def moments(name):
        found = group(Moments, name)
        return found._replace(count=int(found.count))

    inception = "spatial/mean" in arrays
    return Statistics(
        moments("pool"),
        moments("spatial") if inception else None,
        group(ClassSums, "classes") if inception else None,
        arrays["kept"],
        arrays["index"],
    )


def digest(arrays: dict[str, np.ndarray]) -> str:
    """A short hash of names, shapes, types and numbers."""
    found = hashlib.blake2b(digest_size=8)
    for name, values in sorted(arrays.items()):
        found.update(f"{name} {values.dtype} {values.shape}".encode())
        found.update(np.ascontiguousarray(values).data)
    return found.hexdigest()
