"""The same images and weights through torch-fidelity and through this code: every number, and images a second.

    pip install -r requirements.txt torch==2.13.0 torch-fidelity==0.4.0
    PYTHONPATH=tests/models python -m benchmarks.fid_parity     # random weights in the published layout
    python -m benchmarks.fid_parity --weights=pt_inception-2015-12-05-6726825d.pth

Images are coarse noise of 32 pixels, brighter in one set than in the other.
"""

import pathlib
import tempfile
import time

import jax
import numpy as np
import torch
from absl import app, flags
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from evaluation.compare import SUBSETS, compare
from evaluation.features import extractor, gather
from evaluation.reference import MadeOf, Reference
from models import inception, torch_files
from training.sharding import data_mesh

WEIGHTS = flags.DEFINE_string("weights", None, "The published file; random weights without it.")
COUNT = flags.DEFINE_integer("count", 250, "Images in each set.")
BATCH = 50


def image_sets() -> tuple[np.ndarray, np.ndarray]:
    """uint8 [count 32 32 3] twice."""
    random = np.random.default_rng(0)
    coarse = random.normal(size=(2, COUNT.value, 8, 8, 3)).repeat(4, axis=2).repeat(4, axis=3)
    fine = random.normal(size=(2, COUNT.value, 32, 32, 3))
    offset = np.array([0, 12]).reshape(2, 1, 1, 1, 1)
    return tuple((128 + offset + 40 * coarse + 15 * fine).clip(0, 255).astype(np.uint8))


def weights_file() -> str:
    if WEIGHTS.value:
        return WEIGHTS.value
    import published  # in tests/models

    tensors = {name: torch.from_numpy(x) for name, x in published.weights(inception.shapes()).items()}
    path = pathlib.Path(tempfile.mkdtemp()) / "weights.pth"
    torch.save(tensors, path)
    return str(path)


def theirs(path: str, sets) -> tuple[list, dict[str, float]]:
    """(pool features of each set, numbers) of torch-fidelity."""
    network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], path)
    began, features = time.perf_counter(), []
    for images in sets:
        batches = torch.from_numpy(images).permute(0, 3, 1, 2).split(BATCH)
        features.append([torch.cat(parts).double() for parts in zip(*map(network, batches))])
    print(f"torch-fidelity: {2 * COUNT.value / (time.perf_counter() - began):.1f} images/s")
    (x, logits), (y, _) = features
    found = fid_statistics_to_metric(*map(fid_features_to_statistics, (x, y)), verbose=False)
    found |= kid_features_to_metric(x, y, kid_subsets=SUBSETS, kid_subset_size=COUNT.value, verbose=False)
    found |= isc_features_to_metric(logits) | prc_features_to_metric(x, y, verbose=False)
    names = {"fid": "frechet_inception_distance", "kid": "kernel_inception_distance_mean"}
    names |= {"inception_score": "inception_score_mean", "precision": "precision", "recall": "recall"}
    return [x.numpy(), y.numpy()], {ours: found[name] for ours, name in names.items()}


def ours(path: str, sets) -> tuple[list, dict[str, float]]:
    """The same of this code."""
    params = inception.load(path) if WEIGHTS.value else inception.fold(torch_files.read(path))
    extract = extractor(inception.apply, params, data_mesh(), BATCH)
    extract(sets[0][:1])  # compiles
    began = time.perf_counter()
    x, y = (gather(lambda start, stop, images=images: images[start:stop], len(images), extract) for images in sets)
    print(f"this code: {2 * COUNT.value / (time.perf_counter() - began):.1f} images/s on {jax.device_count()} devices")
    reference = Reference(y, MadeOf("", "", 0, (), "", "", "", COUNT.value), "")
    return [x.kept, y.kept], {name: result.value for name, result in compare(x, reference)}


def main(argv):
    del argv
    path, sets = weights_file(), image_sets()
    their_features, their_numbers = theirs(path, sets)
    our_features, our_numbers = ours(path, sets)
    gap = max(np.abs(a - b).max() for a, b in zip(our_features, their_features))
    print(f"pool features: at most {gap:.1e} apart, deviation {their_features[0].std():.2f}")
    for name, value in their_numbers.items():
        print(f"{name:<16} torch-fidelity {value:.10g}   this code {our_numbers[name]:.10g}")


if __name__ == "__main__":
    app.run(main)
