"""The samples of an evaluation on disk, in parts: what was drawn before a kill is not drawn again.

    parts = draw_parts(folder, n, size, sample)      # sample(start, stop) -> uint8 [stop-start h w c]
    statistics = gather(parts.read, n, extract, chunk=size, progress=progress(folder / "statistics.npz", network))

Every part is drawn by the same program in the same batches, and statistics are merged in the same order, so that a
number after any kills is the number without, to the last digit (on the same devices).
"""

import io
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from etils import epath

from evaluation.features import Progress
from evaluation.images import require_uint8
from evaluation.reference import digest, flat, unflat
from training import hosts
from training.metrics import write_atomic

SAVE_SECONDS = 30  # between two writes of statistics: they are 180 MB of Inception's


class Parts(NamedTuple):
    """n images in files of `size`, in a folder of their own."""

    folder: epath.Path
    n: int
    size: int

    def path(self, start: int) -> epath.Path:
        return self.folder / f"part_{start:08}_{min(start + self.size, self.n):08}.npy"

    def read(self, start: int, stop: int) -> np.ndarray:
        """Images start to stop, uint8 [stop-start h w c]."""
        firsts = range(start - start % self.size, stop, self.size)
        loaded = np.concatenate([load(self.path(first)) for first in firsts])
        return loaded[start - firsts[0] : stop - firsts[0]]


def load(path: epath.Path) -> np.ndarray:
    with path.open("rb") as file:
        return np.load(file)


def draw_parts(folder: epath.Path, n: int, size: int, sample: Callable[[int, int], np.ndarray]) -> Parts:
    """Draws the parts that the folder lacks; each is whole or absent. Several processes draw together, one writes."""
    parts = Parts(folder, n, size)
    for start in range(0, n, size):
        if not hosts.agreed(parts.path(start).exists()):
            write_array(parts.path(start), require_uint8(sample(start, min(start + size, n)), "samples"))
    hosts.agreed(True)  # waits until the last part is written
    return parts


def write_array(path: epath.Path, array: np.ndarray) -> None:
    buffer = io.BytesIO()
    np.save(buffer, array)
    write_atomic(path, buffer.getvalue())


def progress(path: epath.Path, network: str) -> Progress:
    """Statistics so far in a file, of features from `network` (its hash) alone; another network's are begun anew."""
    written = [time.monotonic()]

    def read():
        if not path.exists():
            return 0, None
        with path.open("rb") as file, np.load(file) as stored:
            arrays = {name: stored[name] for name in stored.files}
        done, made_by, said = (arrays.pop(name) for name in ("done", "network", "digest"))
        if str(made_by) != network or str(said) != digest(arrays):
            return 0, None
        return int(done), unflat(arrays)

    def write(done, statistics):
        if time.monotonic() - written[0] < SAVE_SECONDS:
            return
        arrays, buffer = flat(statistics), io.BytesIO()
        np.savez(buffer, done=done, network=network, digest=digest(arrays), **arrays)
        write_atomic(path, buffer.getvalue())
        written[0] = time.monotonic()

    return Progress(read, write)
