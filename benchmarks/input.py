"""Images a second through the input path, beside what a host of eight v5e chips and one H200 would take.

    python -m benchmarks.input [--seconds=3] [--batch_size=128]

The images are generated: smooth noise, which compresses as photographs do. What chips take is the plan's assumption:
the published network of that size at 40% of their bfloat16 peak (tools/estimate.USUAL).
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from configs import cifar10, imagenet64
from experiment import model_flops
from input_pipeline import DATASETS, train_batches
from tools.estimate import USUAL
from tools.pack import pack
from training.chips import CHIPS

IMAGES = 4096
NETWORKS = {32: cifar10, 64: imagenet64}  # by the side of their images
TAKERS = {"8 v5e take": ("v5e", 8), "an H200 takes": ("h200", 1)}

FLAGS = flags.FlagValues()
flags.DEFINE_float("seconds", 3.0, "How long each case runs.", flag_values=FLAGS)
flags.DEFINE_integer("batch_size", 128, "Images a batch.", flag_values=FLAGS)


def write_images(root: Path, size: int) -> None:
    """IMAGES JPEGs of smooth noise, enlarged from a quarter of the size."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        coarse = Image.fromarray(rng.integers(0, 256, (size // 4, size // 4, 3), dtype=np.uint8))
        coarse.resize((size, size), Image.Resampling.BICUBIC).save(root / f"{i}.jpg", quality=90)


def rate(source, batch_size: int, seconds: float) -> float:
    """Images a second that train_batches gives, after the first batch."""
    stream = train_batches(source, batch_size, seed=0, start=0)
    next(stream)
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        next(stream)
        steps += 1
    elapsed = time.perf_counter() - start
    return steps * batch_size / elapsed


def sources(root: Path, size: int) -> dict:
    """The cases by name, all of the same images; only 'memory' holds decoded pixels."""
    shape = (size, size, 3)
    images = root / "images"
    images.mkdir()
    write_images(images, size)
    for kind in ("raw", "jpeg"):
        pack(str(images), str(root / kind), shape, held_out=0.0, format=kind)
    folder = dict(path=str(images), shape=shape, held_out=0.0)
    return {
        "memory": DATASETS["folder"]("train", **folder),
        "JPEG folder": DATASETS["folder"]("train", **folder, memory_limit=0),
        "records, raw": DATASETS["arrayrecord"]("train", path=str(root / "raw"), memory_limit=0),
        "records, jpeg": DATASETS["arrayrecord"]("train", path=str(root / "jpeg"), memory_limit=0),
    }


def main(argv: list[str]) -> None:
    FLAGS(argv)
    print(f"{os.cpu_count()} CPU cores, batch {FLAGS.batch_size}, {FLAGS.seconds:g} s a case; images/s")
    for size, network in NETWORKS.items():
        config = network.get_config()
        each = model_flops(config) / config.train.batch_size
        with tempfile.TemporaryDirectory() as root:
            for name, source in sources(Path(root), size).items():
                print(f"{size}x{size}  {name:14} {rate(source, FLAGS.batch_size, FLAGS.seconds):12,.0f}")
        for name, (chip, count) in TAKERS.items():
            taken = count * CHIPS[chip].flops * USUAL / each
            print(f"{size}x{size}  {name:14} {taken:12,.0f}   {network.__name__}, {USUAL:.0%} of the peak")


if __name__ == "__main__":
    main(sys.argv)
