"""Data sets as numpy arrays: what to read (a Source), in which order, a batch at a time.

Nothing here knows of networks, diffusion or devices. Images leave as uint8; the training step
normalises and flips them. A set's own library is imported when a source of that kind is built.
"""

from input_pipeline import arrayrecord, digits, folder, tfds
from input_pipeline.batches import evaluation_batches, train_batches
from input_pipeline.source import Source, facts

__all__ = ["DATASETS", "Source", "evaluation_batches", "facts", "train_batches"]

# name -> build(split, **options) -> Source
DATASETS = {
    "digits": digits.build,
    "folder": folder.build,
    "arrayrecord": arrayrecord.build,
    "tfds": tfds.build,
}
