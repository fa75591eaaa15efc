"""A classifier trained on real images, which reads the samples of a class-conditional model."""

from collections.abc import Callable

import numpy as np

from evaluation.images import pixels

Classify = Callable[[np.ndarray], np.ndarray]  # uint8 b h w c -> labels [b]


def support_vectors(images: np.ndarray, labels: np.ndarray, C: float = 10.0) -> Classify:
    """Fits a support vector machine with a radial kernel to raw pixels; returns images -> labels.

    uint8 images b h w c of any one shape and their integer labels [b]. The kernel's width follows
    the features' count and variance (gamma = 1 / (d var)), so that nothing depends on the size of
    the images or the scale of the pixels. On scikit-learn's digits C from 5 upwards does not
    matter. Time grows with the square of the count: a few thousand images are its place.
    """
    from sklearn.svm import SVC

    if len(np.unique(labels)) < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {np.unique(labels).tolist()}")
    machine = SVC(C=C, gamma="scale").fit(pixels(images), labels)
    return lambda images: machine.predict(pixels(images))


def agreement(classify: Classify, images: np.ndarray, labels: np.ndarray) -> float:
    """The share, in [0, 1], of images that the classifier reads as their label."""
    return float(np.mean(classify(images) == labels))
