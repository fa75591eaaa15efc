"""Two sets of features and one of logits, the same wherever they are drawn, for other codes' numbers on them."""

import numpy as np

DIMENSIONS = 48
KID = {"subsets": 20, "size": 200, "seed": 2020}


def pair() -> tuple[np.ndarray, np.ndarray]:
    """float64 [700 d] and [500 d]: correlated, non-negative as pool features are, one shifted and narrower."""
    random = np.random.RandomState(7)
    mixing = random.uniform(-1, 1, (DIMENSIONS, DIMENSIONS)) / DIMENSIONS**0.5
    x, y = (random.uniform(-2, 2, (n, DIMENSIONS)) @ mixing for n in (700, 500))
    return np.maximum(x + 0.3, 0), np.maximum(0.8 * y + 0.4, 0)


def logits() -> np.ndarray:
    """float64 [730 30], some classes far likelier than others; 10 splits of them are not equal."""
    random = np.random.RandomState(8)
    return random.uniform(-3, 3, (730, 30)) + random.uniform(-2, 2, 30)
