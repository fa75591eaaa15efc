"""Law 21: the order is a bijection of each epoch, mixed, and a function of (seed, position) alone."""

import collections

import numpy as np
import pytest
from scipy import stats

from input_pipeline import order


def order_of(n, seed=0, epoch=0):
    return order.permutation(n, seed, epoch)(np.arange(n))


@pytest.mark.parametrize("n", [1, 2, 3, 255, 256, 257, 1000, 4097])
@pytest.mark.parametrize("seed, epoch", [(0, 0), (1, 0), (0, 7), (2**40, 2**33)])
def test_every_epoch_is_a_bijection(n, seed, epoch):
    assert sorted(order_of(n, seed, epoch)) == list(range(n))


def test_large_sets_need_no_table():
    n = 10**15
    at = np.arange(n - 10_000, n)
    found = order.permutation(n, 0, 0)(at)
    assert len(set(found)) == 10_000 and found.min() >= 0 and found.max() < n
    assert found.min() < n / 100 and found.max() > n * 0.99


def test_order_differs_by_epoch_and_by_seed_but_not_by_chunk():
    one = order_of(1000)
    assert (one == order_of(1000, seed=1)).mean() < 0.01
    assert (one == order_of(1000, epoch=1)).mean() < 0.01
    at = order.permutation(1000, 0, 0)
    np.testing.assert_array_equal(one, np.concatenate([at(np.arange(500)), at(np.arange(500, 1000))]))


def test_all_orders_of_four_are_equally_likely():
    seen = collections.Counter(tuple(order_of(4, epoch=epoch)) for epoch in range(480))
    assert len(seen) == 24
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def chi2(counts, dof):
    expected = counts.mean()
    return stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), dof)


@pytest.mark.parametrize("n", [64, 97, 300])
def test_places_neighbours_and_epochs_are_independent(n):
    places, follows, steps, epochs = np.zeros((n, n)), np.zeros((n, n)), np.zeros(n), 1200
    last = order_of(n, epoch=epochs)
    for epoch in range(epochs):
        now = order_of(n, epoch=epoch)
        places[np.arange(n), now] += 1
        follows[last, now] += 1
        steps += np.bincount((now[1:] - now[:-1]) % n, minlength=n)
        last = now
    assert chi2(places, (n - 1) ** 2) > 1e-4
    assert chi2(follows, (n - 1) ** 2) > 1e-4
    assert chi2(steps[1:], n - 2) > 1e-4


@pytest.mark.parametrize("n, epochs, distance", [(256, 2000, 1), (256, 2000, 128), (4096, 200, 1), (4096, 200, 2048)])
def test_pairs_are_independent(n, epochs, distance):
    differences, xors = np.zeros(n), np.zeros(n)
    for epoch in range(epochs):
        now = order_of(n, epoch=epoch)
        differences += np.bincount((now[distance:] - now[:-distance]) % n, minlength=n)
        xors += np.bincount(now[distance:] ^ now[:-distance], minlength=n)
    assert chi2(differences[1:], n - 2) > 1e-4
    assert chi2(xors[1:], n - 2) > 1e-4


def test_batches_straddle_epochs_without_loss():
    n, batch_size = 10, 4
    stream = np.concatenate([order.examples(s, batch_size, n, 0, np.arange(4)) for s in range(5)])
    np.testing.assert_array_equal(stream, np.concatenate([order_of(n, epoch=0), order_of(n, epoch=1)]))
    wide = order.examples(0, 35, n, 0, np.arange(35))
    assert collections.Counter(wide[:30]) == dict.fromkeys(range(n), 3)
