"""Laws 21 and 22: disjoint over processes, position is one integer, the last batch's rest is masked."""

import itertools
import threading
import time

import numpy as np
import pytest

from input_pipeline import evaluation_batches, facts, train_batches
from input_pipeline.source import Source, empty_batch, some


def numbered(size, in_memory=False, fail_at=None, delay=0.0):
    """Example i is labelled i; reading `fail_at` raises."""

    def read(indices):
        time.sleep(delay)
        if fail_at is not None and fail_at in indices:
            raise RuntimeError(f"cannot read {fail_at}")
        batch = empty_batch(len(indices), (1, 1, 1))
        batch["label"][:] = indices
        batch["valid"][:] = True
        return batch

    return Source(size, (1, 1, 1), None, None, read, in_memory=in_memory)


def labels(batches, steps):
    return [batch["label"] for batch in itertools.islice(batches, steps)]


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_see_each_example_once_an_epoch(hosts, in_memory):
    source = numbered(96, in_memory)
    seen = [labels(train_batches(source, 16, 3, 0, process_index=p, process_count=hosts), 6) for p in range(hosts)]
    assert sorted(np.concatenate([np.concatenate(one) for one in seen])) == list(range(96))
    whole = labels(train_batches(source, 16, 3, 0), 6)
    for step in range(6):
        np.testing.assert_array_equal(np.concatenate([one[step] for one in seen]), whole[step])


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("start", [1, 7, 1000])
def test_starting_at_k_is_skipping_k(start, in_memory):
    source = numbered(50, in_memory)
    skipped = labels(train_batches(source, 8, 0, 0), start + 3)[start:]
    np.testing.assert_array_equal(labels(train_batches(source, 8, 0, start), 3), skipped)


@pytest.mark.parametrize("workers, prefetch", [(1, 1), (2, 0), (5, 4)])
def test_workers_and_prefetch_do_not_change_the_batches(workers, prefetch):
    ahead = train_batches(numbered(50, delay=0.001), 32, 0, 0, workers=workers, prefetch=prefetch)
    np.testing.assert_array_equal(labels(ahead, 5), labels(train_batches(numbered(50, True), 32, 0, 0), 5))


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("size, hosts", [(10, 1), (10, 2), (1, 4), (16, 4)])
def test_evaluation_shows_each_example_once_in_order_and_masks_the_rest(size, hosts, in_memory):
    source = numbered(size, in_memory)
    seen = [list(evaluation_batches(source, 8, process_index=p, process_count=hosts)) for p in range(hosts)]
    assert {len(one) for one in seen} == {-(-size // 8)}
    assert {len(batch["valid"]) for one in seen for batch in one} == {8 // hosts}
    rows = [batch for step in zip(*seen, strict=True) for batch in step]
    valid = np.concatenate([batch["valid"] for batch in rows])
    np.testing.assert_array_equal(np.flatnonzero(valid), np.arange(size))
    np.testing.assert_array_equal(np.concatenate([batch["label"] for batch in rows])[valid], np.arange(size))


def test_a_workers_exception_reaches_the_consumer():
    with pytest.raises(RuntimeError, match="cannot read 7"):
        labels(train_batches(numbered(16, fail_at=7), 16, 0, 0), 1)


def test_closing_stops_the_workers():
    stream = train_batches(numbered(64, delay=0.01), 16, 0, 0)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while any(thread.name.startswith("input") for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_prefetch_is_bounded():
    reads = []
    source = numbered(64)
    counted = source._replace(read=lambda indices: reads.append(1) or source.read(indices))
    stream = train_batches(counted, 4, 0, 0, prefetch=2)
    next(stream)
    time.sleep(0.1)
    assert len(reads) == 3
    stream.close()


@pytest.mark.parametrize(
    "stream", [lambda s: train_batches(s, 6, 0, 0, process_count=4), lambda s: evaluation_batches(s, 0)]
)
def test_a_batch_that_the_processes_do_not_divide_is_refused_at_once(stream):
    with pytest.raises(ValueError, match="batch_size="):
        stream(numbered(10))


def test_facts_are_plain():
    source = numbered(3)._replace(classes=("a", "b"), label_counts=np.array([1, 2]), digest="d")
    counts = {"classes": ["a", "b"], "label_counts": [1, 2]}
    assert facts(source) == {"size": 3, "shape": [1, 1, 1], "digest": "d", **counts}


def test_some_is_an_even_draw_of_a_sorted_set():
    drawn = some(numbered(1000), 100)
    labels = drawn.read(np.arange(100))["label"]
    assert drawn.size == 100 and len(set(labels)) == 100 and np.all(np.diff(labels) > 0)
    assert abs(labels.mean() - 500) < 100 and some(numbered(50), 100).size == 50
