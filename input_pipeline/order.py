"""The order of training examples: a pure function of (seed, position), without memory.

Row i of global batch `step` is position g = step B + i; its epoch is g // n and its example is the
epoch's permutation at g % n. The permutation is a small keyed cipher over the smallest power of two
that holds n; a value that falls outside [0, n) is enciphered again until it comes back inside
(cycle walking: Black and Rogaway, "Ciphers with arbitrary finite domains", 2002).
"""

import functools
from collections.abc import Callable

import numpy as np

ROUNDS = 8  # over 15,000 epochs of 256, six still show in pairs half a set apart; seven do not
DRAWS = 2**32 - 1  # an epoch that no run comes to: its keys are of the draws
MIN_BITS = 8  # with fewer the rounds have too little to mix: tiny sets walk a longer cycle


@functools.lru_cache(maxsize=8)
def _keys(seed, epoch):
    """What each round adds, any number, and what it multiplies by, an odd one."""
    words = np.random.SeedSequence(seed, spawn_key=(epoch,)).generate_state(2 * ROUNDS, np.uint64)
    return words.reshape(ROUNDS, 2) | np.array([0, 1], np.uint64)


def _encipher(x, bits, keys):
    """A bijection on [0, 2^bits); a round adds, multiplies by an odd number, folds high to low."""
    mask, half = np.uint64(2**bits - 1), np.uint64((bits + 1) // 2)
    for add, multiply in keys:
        x = (x + add) * multiply & mask
        x ^= x >> half
    return x


def permutation(n: int, seed: int, epoch: int) -> Callable:
    """The epoch's order: a one-to-one function, positions int [k] in [0, n) -> examples int64 [k].

    Neighbouring epochs and seeds give unrelated orders. `seed` and `epoch` are integers >= 0.
    """
    bits, keys = max(MIN_BITS, (n - 1).bit_length()), _keys(seed, epoch)

    def example(positions):
        x = _encipher(np.asarray(positions, np.uint64), bits, keys)
        while (outside := x >= n).any():
            x[outside] = _encipher(x[outside], bits, keys)
        return x.astype(np.int64)

    return example


def draws(step: int, batch_size: int, seed: int, rows: np.ndarray) -> np.ndarray:
    """A random number, uint64 [k], for each position of global batch `step`: a function of (seed, position) alone."""
    position = (step * batch_size + np.asarray(rows, np.int64)).astype(np.uint64)
    return _encipher(position, 64, _keys(seed, DRAWS))


def examples(step: int, batch_size: int, n: int, seed: int, rows: np.ndarray) -> np.ndarray:
    """The examples int64 [k] at `rows` (int [k], each in [0, batch_size)) of global batch `step`.

    A batch may straddle epochs; each epoch shows each of the n examples exactly once.
    """
    epochs, positions = np.divmod(step * batch_size + np.asarray(rows, np.int64), n)
    found = np.empty_like(positions)
    for epoch in np.unique(epochs):
        now = epochs == epoch
        found[now] = permutation(n, seed, int(epoch))(positions[now])
    return found
