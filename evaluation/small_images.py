"""The judgement of samples of small images: are they read right, distributed right, and new?

    for name, result in judge(samples, train, heldout): print(name, result.value)

Three questions that no one number answers together: a classifier reads single images and does not
see missing variety; the Frechet distance sees variety and is won by copying; the neighbours see
copying. Each number of the samples stands beside the same number of real images.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from evaluation.classifier import agreement, support_vectors
from evaluation.frechet import Moments, frechet_distance
from evaluation.images import pixels, require_uint8
from evaluation.neighbours import copying_ratio
from evaluation.results import Result

CLASSIFIER_IMAGES = 5000  # beyond, a support vector machine takes minutes


class ImageSet(NamedTuple):
    """uint8 images b h w c and their integer labels [b], or None."""

    images: np.ndarray
    labels: np.ndarray | None = None


def judge(
    samples: ImageSet, train: ImageSet, heldout: ImageSet, *, seed: int = 0, halvings: int = 20
) -> Iterator[tuple[str, Result]]:
    """Yields the judgement of `samples` against real images, `train` and `heldout` apart.

    svc/agreement           share of samples read as their label by a classifier of real images
    svc/heldout_accuracy    the same classifier on the held-out images
    frechet/samples         raw-pixel distance of samples to half of the real images, mean over
                            `halvings`; as many on each side, with the real images' label counts
    frechet/real            the distance between those halves of the real images, mean
    frechet/ratio           the first over the second: 0.90 +- 0.07 for unseen real digits, below 1
                            as their label counts are exact (unlabelled ones: 0.99 +- 0.09)
    neighbours/samples      nearest training over nearest held-out distance (copies 0)
    neighbours/heldout      the same of held-out images, each left out in turn: what is to be near

    The two of the classifier are left out where there are no labels to tell apart. Raises
    ValueError on arrays of another shape or type, and on samples without one of the real labels.
    """
    for name, images in ("samples", samples), ("train", train), ("heldout", heldout):
        if require_uint8(images.images, name).shape[1:] != train.images.shape[1:]:
            raise ValueError(
                f"{name} are {list(images.images.shape[1:])}, training images "
                f"{list(train.images.shape[1:])}: judge at the resolution of the training"
            )
    labelled = all(images.labels is not None for images in (samples, train, heldout))
    if labelled and len(np.unique(train.labels)) > 1:
        yield from read_by_classifier(samples, train, heldout, seed)
    yield from beside_halvings(samples, together(train, heldout), seed, halvings)
    yield from beside_neighbours(samples, train, heldout)


def together(a: ImageSet, b: ImageSet) -> ImageSet:
    """Both sets in one; unlabelled where one of them is."""
    unlabelled = a.labels is None or b.labels is None
    labels = None if unlabelled else np.concatenate([a.labels, b.labels])
    return ImageSet(np.concatenate([a.images, b.images]), labels)


def read_by_classifier(
    samples: ImageSet, train: ImageSet, heldout: ImageSet, seed: int = 0
) -> Iterator[tuple[str, Result]]:
    """Label agreement of the samples, and of the held-out images."""
    chosen = np.random.default_rng(seed).permutation(len(train.images))[:CLASSIFIER_IMAGES]
    classify = support_vectors(train.images[chosen], train.labels[chosen])
    settings = {"classifier": "SVC on raw pixels", "trained_on": len(chosen)}
    for name, images in ("agreement", samples), ("heldout_accuracy", heldout):
        yield f"svc/{name}", Result(agreement(classify, *images), {**settings, "n": len(images[0])})


def beside_halvings(
    samples: ImageSet, real: ImageSet, seed: int = 0, halvings: int = 20
) -> Iterator[tuple[str, Result]]:
    """Frechet distance of samples to halves of the real images, beside that between the halves.

    The distance is biased by the count, so all sides have n images: half of the real ones, or as
    many samples as there are with the real label counts.
    """
    chosen = matched(samples, real, len(real.images) // 2)
    n, features = len(chosen), pixels(real.images)
    moments = Moments.of(pixels(samples.images[chosen]))
    to_samples, to_real = [], []
    for k in range(halvings):
        order = np.random.default_rng([seed, k]).permutation(len(features))
        half, other = Moments.of(features[order[:n]]), Moments.of(features[order[n : 2 * n]])
        to_samples.append(frechet_distance(moments, half))
        to_real.append(frechet_distance(half, other))
    settings = {
        "n": n,
        "features": "raw pixels in [-1, 1]",
        "dimensions": features.shape[1],
        "rank_deficient": moments.rank_deficient,
        "halvings": halvings,
        "seed": seed,
    }
    yield "frechet/samples", Result(float(np.mean(to_samples)), settings)
    yield "frechet/real", Result(float(np.mean(to_real)), settings)
    yield "frechet/ratio", Result(float(np.mean(to_samples) / np.mean(to_real)), settings)


def beside_neighbours(samples: ImageSet, train: ImageSet, heldout: ImageSet) -> Iterator[tuple[str, Result]]:
    """The samples' ratio of nearest training to nearest held-out distance, and real images'."""
    settings = {
        "train": len(train.images),
        "heldout": len(heldout.images),
        "distance": "L2, pixels",
    }
    sets = train.images, heldout.images
    ratio = copying_ratio(samples.images, *sets)
    yield "neighbours/samples", Result(ratio, {"n": len(samples.images), **settings})
    ratio = copying_ratio(heldout.images, *sets, leave_one_out=True)
    yield "neighbours/heldout", Result(ratio, {"n": len(heldout.images), **settings})


def quota(counts: np.ndarray, n: int) -> np.ndarray:
    """n shared out in proportion to `counts` [k] by largest remainder: integers that sum to n."""
    shares = n * np.asarray(counts) / np.sum(counts)
    whole = np.floor(shares).astype(np.int64)
    whole[np.argsort(whole - shares, kind="stable")[: n - whole.sum()]] += 1
    return whole


def matched(samples: ImageSet, real: ImageSet, limit: int) -> np.ndarray:
    """Indices of the most samples, at most `limit`, whose label counts are the real ones' quota.

    Of each label its first samples, so that the choice follows from the seeds. Without labels the
    first `limit` samples. ValueError where a label of the real images has too few samples.
    """
    if samples.labels is None or real.labels is None:
        return np.arange(min(limit, len(samples.images)))
    labels, counts = np.unique(real.labels, return_counts=True)
    have = np.array([np.count_nonzero(samples.labels == label) for label in labels])
    sizes = range(min(limit, have.sum()), len(labels) - 1, -1)
    size = next((n for n in sizes if (quota(counts, n) <= have).all()), None)
    if size is None:
        raise ValueError(
            f"samples hold too few of label {labels[have.argmin()]} ({have.min()}) for the real "
            "label counts: draw labels in those proportions"
        )
    firsts = [
        np.flatnonzero(samples.labels == label)[:share]
        for label, share in zip(labels, quota(counts, size), strict=True)
    ]
    return np.sort(np.concatenate(firsts))
