"""The numbers that rest on features: samples beside a reference, each with what it depends on."""

from collections.abc import Iterator

import numpy as np

from evaluation.features import SEED, SPLITS, Statistics
from evaluation.frechet import Moments, frechet_distance
from evaluation.inception_score import inception_score
from evaluation.kernel_distance import kernel_distance, kernel_distance_of_subsets
from evaluation.manifold import NEIGHBOURS, manifold, membership
from evaluation.reference import Reference
from evaluation.results import Result

SUBSETS, SUBSET_SIZE = 100, 1000


def compare(samples: Statistics, reference: Reference) -> Iterator[tuple[str, Result]]:
    """Yields the numbers of `samples` against `reference`, both from the same network.

    fid                 Frechet distance of pool features; biased upwards by small counts
    sfid                the same of spatial features (Nash et al. 2021)
    kid, kid_all_pairs  kernel distance: mean over subsets, and over all pairs kept; no bias
    inception_score     of the samples alone: sees classes, not likeness to the reference
    precision, recall   share of samples among the reference, and of the reference among samples
    nearest_ratio       mean distance from a sample to the nearest reference image over that between
                        reference images: 0 for copies, 1 for new images of the same kind

    Copying the reference wins all but the last. Features of other networks than Inception have no sfid and no
    inception_score.
    """
    yield from frechet(samples, reference)
    yield from kernel(samples, reference)
    if samples.classes:
        yield "inception_score", score(samples, reference)
    yield from neighbours(samples, reference)


def frechet(samples: Statistics, reference: Reference) -> Iterator[tuple[str, Result]]:
    """Frechet distances; rank_deficient says that either set has no more images than features."""
    real = reference.statistics
    for name, a, b in ("fid", samples.pool, real.pool), ("sfid", samples.spatial, real.spatial):
        if a is None:
            continue
        yield name, Result(frechet_distance(a, b), {"n": a.count, **rank(a, b), "reference": reference.as_dict()})


def rank(a: Moments, b: Moments) -> dict:
    return {"dimensions": len(a.mean), "rank_deficient": a.rank_deficient or b.rank_deficient}


def kernel(samples: Statistics, reference: Reference) -> Iterator[tuple[str, Result]]:
    """Kernel distances of the features kept; with fewer than SUBSET_SIZE images the subsets are all of them."""
    x, y = samples.kept, reference.statistics.kept
    size = min(SUBSET_SIZE, len(x), len(y))
    settings = counts(x, y) | {"reference": reference.as_dict()}
    mean, deviation = kernel_distance_of_subsets(x, y, SUBSETS, size, SEED)
    drawn = {"subsets": SUBSETS, "subset_size": size, "seed": SEED, "deviation": deviation}
    yield "kid", Result(mean, drawn | settings)
    yield "kid_all_pairs", Result(kernel_distance(x, y), settings)


def score(samples: Statistics, reference: Reference) -> Result:
    """The samples' Inception score; the reference's own stands in the settings."""
    mean, deviation = inception_score(samples.classes)
    of_reference, _ = inception_score(reference.statistics.classes)
    settings = {"n": samples.pool.count, "splits": SPLITS, "seed": SEED, "deviation": deviation}
    return Result(mean, settings | {"of_reference": of_reference, "reference": reference.as_dict()})


def neighbours(samples: Statistics, reference: Reference) -> Iterator[tuple[str, Result]]:
    """Precision, recall and what copying cannot win."""
    x, y = samples.kept, reference.statistics.kept
    settings = counts(x, y) | {"neighbours": NEIGHBOURS, "reference": reference.as_dict()}
    real = manifold(y)
    precision = membership(x, real)
    yield "precision", Result(precision.share, settings)
    yield "recall", Result(membership(y, manifold(x)).share, settings)
    with np.errstate(divide="ignore", invalid="ignore"):
        yield "nearest_ratio", Result(np.divide(precision.distance, real.spacing), settings)


def counts(x: np.ndarray, y: np.ndarray) -> dict:
    return {"n": len(x), "reference_n": len(y)}
