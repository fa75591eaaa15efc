"""Random weights in the layout of the published FID network, and images for it: NumPy alone, the same everywhere.

RandomState's stream is frozen, and uniform draws need no function that libraries round differently.
"""

import numpy as np

SIZES = [(32, 32), (299, 299), (400, 350)]


def weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """float32 tensors by their published names, from `models.inception.shapes()`."""
    random, tensors = np.random.RandomState(seed), {}

    def uniform(low, high, shape):
        return random.uniform(low, high, shape).astype(np.float32)

    for name, shape in sorted(shapes.items()):
        layer, part = name.rsplit(".", 1)
        if layer == "fc":
            tensors |= {"fc.weight": uniform(-0.1, 0.1, shape[::-1]), "fc.bias": uniform(-1, 1, shape[1])}
        elif part == "kernel":
            bound = np.sqrt(6 / np.prod(shape[:3]))
            tensors[f"{layer}.conv.weight"] = uniform(-bound, bound, [shape[i] for i in (3, 2, 0, 1)])
            for norm, low, high in [
                ("weight", 0.3, 0.9),
                ("bias", -0.3, 0.3),
                ("running_mean", -0.2, 0.2),
                ("running_var", 0.01, 2),  # small ones show the norm's epsilon
            ]:
                tensors[f"{layer}.bn.{norm}"] = uniform(low, high, shape[3])
    return tensors


def images(size: tuple[int, int], count: int = 2) -> np.ndarray:
    """uint8 [count h w 3], every pixel of its own."""
    return np.random.RandomState(sum(size)).randint(0, 256, (count, *size, 3)).astype(np.uint8)
