"""Images a second through the input path, beside what a host of eight chips would take.

    python -m benchmarks.input [--seconds=3] [--batch_size=128]

The images are generated: smooth noise, which compresses as photographs do. What a host takes is an
assumption: eight v5e chips at 40% of their bfloat16 peak.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import flags
from PIL import Image

from input_pipeline import DATASETS, train_batches
from tools.pack import pack

IMAGES = 4096
PEAK, CHIPS, UTILISATION = 197e12, 8, 0.4  # v5e, bfloat16 FLOP/s
TRAIN_FLOPS = {32: ("CIFAR-10, 35.7M", 35e9), 64: ("ImageNet 64, 296M", 578e9)}  # an image, forward and back

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
    for size, (network, flops) in TRAIN_FLOPS.items():
        with tempfile.TemporaryDirectory() as root:
            for name, source in sources(Path(root), size).items():
                print(f"{size}x{size}  {name:14} {rate(source, FLAGS.batch_size, FLAGS.seconds):12,.0f}")
        wanted = CHIPS * PEAK * UTILISATION / flops
        print(f"{size}x{size}  {'8 v5e take':14} {wanted:12,.0f}   {network}, {UTILISATION:.0%} of peak")


if __name__ == "__main__":
    main(sys.argv)
