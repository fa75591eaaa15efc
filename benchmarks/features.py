"""What an evaluation on features costs: images a second through the FID network, seconds a number, and memory.

    python -m benchmarks.features
    python -m benchmarks.features --images=0 --counts=10000,50000

The network has random weights; memory and numbers are measured on made-up features of its sizes.
"""

import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

from evaluation.compare import frechet, kernel, neighbours
from evaluation.features import CHUNK, extractor, gather
from evaluation.reference import MadeOf, Reference
from models.inception import Inception, Outputs, apply
from training.sharding import data_mesh

IMAGES = flags.DEFINE_integer("images", 500, "Images through the network; 0 leaves it out.")
SIZE = flags.DEFINE_integer("size", 32, "Their side.")
COUNTS = flags.DEFINE_list("counts", ["10000", "50000"], "Images whose made-up features are gathered.")


def network() -> None:
    images = np.random.default_rng(0).integers(0, 256, (IMAGES.value, SIZE.value, SIZE.value, 3), np.uint8)
    params = jax.jit(Inception().init)(jax.random.key(0), images[:1])["params"]
    extract = extractor(apply, params, data_mesh())
    began = time.perf_counter()
    extract(images[:1])
    compiled = time.perf_counter()
    extract(images)
    rate = IMAGES.value / (time.perf_counter() - compiled)
    print(f"network: {rate:.1f} images/s of {SIZE.value} pixels, first batch {compiled - began:.1f} s")


def made_up(images: np.ndarray) -> Outputs:
    """Features of the network's sizes, from the images' first pixel as a seed."""
    random = np.random.default_rng(int(images[0, 0, 0, 0]))
    pool, logits, spatial = (random.random((len(images), d), np.float32) for d in (2048, 1008, 2023))
    return Outputs(pool, 4 * logits, spatial)


def gathered(n: int):
    """Statistics of n made-up images, with what they took."""
    began = time.perf_counter()
    blank = np.zeros((CHUNK, 1, 1, 3), np.uint8)
    statistics = gather(lambda start, stop: (blank + start // CHUNK)[: stop - start].astype(np.uint8), n, made_up)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"gather: {n} images in {time.perf_counter() - began:.0f} s, peak memory of the process {peak:.2f} GiB")
    return statistics


def numbers(statistics) -> None:
    reference = Reference(statistics, MadeOf("", "", 0, (), "", "", "", len(statistics.kept)), "")
    for part in frechet, kernel, neighbours:
        began = time.perf_counter()
        names = [name for name, _ in part(statistics, reference)]
        print(f"{', '.join(names)}: {time.perf_counter() - began:.0f} s, {len(statistics.kept)} images kept")


def main(argv):
    del argv
    jnp.zeros(())  # the device's own memory before anything is measured
    for count in COUNTS.value:
        statistics = gathered(int(count))
    numbers(statistics)
    if IMAGES.value:
        network()


if __name__ == "__main__":
    app.run(main)
