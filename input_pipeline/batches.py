"""Batches of a Source: the endless training stream, and one pass of evaluation.

The position is the step: the stream from `start` is the stream from 0 with `start` batches left
out. A process of P gets the contiguous rows [p B / P, (p + 1) B / P) of each global batch.
"""

import itertools
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from input_pipeline import order
from input_pipeline.source import WORKERS, Batch, Source, join

PREFETCH = 3  # batches under way while one is in use


def local_rows(batch_size: int, process_index: int, process_count: int) -> np.ndarray:
    """This process's rows of the global batch, int64 [B / P]; ValueError unless P divides B."""
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch_size={batch_size} must be a positive multiple of the {process_count} processes")
    share = batch_size // process_count
    return np.arange(share) + process_index * share


def _reader(source):
    """read(indices, draws) -> a batch, with its text where the source has some."""
    if source.text is None:
        return lambda indices, draws: source.read(indices)
    return lambda indices, draws: source.text(source.read(indices), indices, draws)


def _read_ahead(read, positions, workers, prefetch):
    """Read at each (indices, draws), in order, in threads, at most `prefetch` batches ahead.

    The rows of one batch are split over the threads, so that memory does not grow with them. What
    a thread raises is raised here. Closing the generator drops what has not begun.
    """
    pool = ThreadPoolExecutor(workers, thread_name_prefix="input")
    try:
        pending = deque()
        for indices, draws in positions:
            parts = max(1, min(workers, len(indices) // 8))
            pairs = zip(np.array_split(indices, parts), np.array_split(draws, parts))
            pending.append([pool.submit(read, *pair) for pair in pairs])
            if len(pending) > prefetch:
                yield join([part.result() for part in pending.popleft()])
        while pending:
            yield join([part.result() for part in pending.popleft()])
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _read(source, positions, workers, prefetch):
    if source.in_memory:  # a gather is cheaper than handing it to a thread
        return itertools.starmap(_reader(source), positions)
    return _read_ahead(_reader(source), positions, workers, prefetch)


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

    Yields dicts of numpy arrays, as Source.read gives them, of this process's B / P rows. Which of an
    example's captions is shown is a function of (seed, position).
    ValueError where the processes do not divide `batch_size`.
    """
    rows = local_rows(batch_size, process_index, process_count)

    def position(step):
        return order.examples(step, batch_size, source.size, seed, rows), order.draws(step, batch_size, seed, rows)

    at = map(position, itertools.count(start))
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
    """Each example once, in the source's own order, with its first caption; as many batches on every process.

    All batches have B / P rows: what the last ones lack has valid False (law 22).
    """
    rows = local_rows(batch_size, process_index, process_count)
    starts = range(0, source.size, batch_size)
    at = ((start + rows)[start + rows < source.size] for start in starts)
    first = ((indices, np.zeros(len(indices), np.uint64)) for indices in at)
    return (_padded(batch, len(rows)) for batch in _read(source, first, workers, prefetch))


def _padded(batch, k):
    """k rows: zeros, all invalid, for those that lack."""
    lacking = k - len(batch["valid"])
    rest = {key: np.zeros((lacking, *rows.shape[1:]), rows.dtype) for key, rows in batch.items()}
    return join([batch, rest]) if lacking else batch
