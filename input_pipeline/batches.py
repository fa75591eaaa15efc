"""Batches of a Source: the endless training stream, and one pass of evaluation.

The position is the step: the stream from `start` is the stream from 0 with `start` batches left
out. A process of P gets the contiguous rows [p B / P, (p + 1) B / P) of each global batch.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import numpy as np

from input_pipeline import order
from input_pipeline.source import WORKERS, Batch, Source, empty_batch, join

PREFETCH = 3  # batches under way while one is in use


def local_rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """This process's rows of the global batch, int64 [B / P]; ValueError unless P divides B."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of the {process_count} processes")
    share = batch_size // process_count
    return np.arange(share) + process_index * share


def _read_ahead(source, positions, workers, prefetch):
    """Read each array of indices, in order, in threads, at most `prefetch` batches ahead.

    The rows of one batch are split over the threads, so that memory does not grow with them. What
    a thread raises is raised here. Closing the generator drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="input")
    try:
        pending = deque()
        for indices in positions:
            parts = np.array_split(indices, max(1, min(workers, len(indices) // 8)))
            pending.append([pool.submit(source.read, part) for part in parts])
            if len(pending) > prefetch:
                yield join([part.result() for part in pending.popleft()])
        while pending:
            yield join([part.result() for part in pending.popleft()])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(source, positions, workers, prefetch):
    if source.in_memory:  # a gather is cheaper than handing it to a thread
        return map(source.read, positions)
    return _read_ahead(source, positions, workers, prefetch)


def train_batches(
    source: Source,
    batch_size: int,
    seed: int,
    start: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = WORKERS,
    prefetch: int = PREFETCH,
) -> Iterator[Batch]:
    """Endless batches for steps start, start + 1, ...: each example once an epoch (law 21).

    Yields dicts of numpy arrays, as Source.read gives them, of this process's B / P rows.
    ValueError where the processes do not divide `batch_size`.
    """
    rows = local_rows(batch_size, process_index, process_count)
    at = (order.examples(step, batch_size, source.size, seed, rows) for step in count(start))
    return _read(source, at, workers, prefetch)


def evaluation_batches(
    source: Source,
    batch_size: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = WORKERS,
    prefetch: int = PREFETCH,
) -> Iterator[Batch]:
    """Each example once, in the source's own order; as many batches on every process.

    All batches have B / P rows: what the last ones lack has valid False (law 22).
    """
    rows = local_rows(batch_size, process_index, process_count)
    starts = range(0, source.size, batch_size)
    at = ((start + rows)[start + rows < source.size] for start in starts)
    return (_padded(batch, len(rows), source.shape) for batch in _read(source, at, workers, prefetch))


def _padded(batch, k, shape):
    lacking = k - len(batch["valid"])
    return join([batch, empty_batch(lacking, shape)]) if lacking else batch
