"""Scikit-learn's handwritten digits: 1,797 grey 8x8 images of 10 classes, inside the package.

Source: E. Alpaydin and C. Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (its
test set). The pixels 0..16 become round(255 v / 16).
"""

import numpy as np

from input_pipeline import order, resize
from input_pipeline.source import Source, checked_shape, column, count_labels, gather

TRAIN = 1500  # the other 297 are held out
SHAPE = (8, 8, 1)
SPLITS = ("train", "test")

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OPENINGS = (
    "{a} ",
    "",
    "the digit ",
    "the number ",
    "a handwritten ",
    "a picture of {a} ",
    "a drawing of the number ",
    "an image of the digit ",
    "someone wrote {a} ",
    "this is {a} ",
    "here you see {a} ",
    "draw the figure ",
)
ENDINGS = ("", " on paper", " in black", " with a pen", "!", ", as asked")
WORDINGS = tuple(
    opening + word + ending for ending in ENDINGS for word in ("{name}", "{figure}") for opening in OPENINGS
)
# Never seen in training, nor are their openings and endings.
HELD_OUT_WORDINGS = (
    "please write {a} {name}",
    "a photo of the figure {figure}",
    "{a} {name} in ink",
    "the handwritten digit {name}",
    "i want to see the number {figure}",
    "{name}, written by hand",
)


def prompt(wording: str, digit: int) -> str:
    """One of WORDINGS, or of HELD_OUT_WORDINGS, for a digit: 'a seven'."""
    return wording.format(a="an" if digit == 8 else "a", name=NAMES[digit], figure=digit)


def _train_quota(counts):
    """How many of each class to train on: in proportion, by largest remainder, TRAIN in all."""
    exact = counts * TRAIN / counts.sum()
    quota = np.floor(exact).astype(int)
    quota[np.argsort(quota - exact, kind="stable")[: TRAIN - quota.sum()]] += 1
    return quota


def _members(labels, split, seed):
    """The split's indices, ascending: stratified, and a function of the seed alone."""
    chosen = []
    for digit, quota in enumerate(_train_quota(np.bincount(labels))):
        members = np.flatnonzero(labels == digit)
        members = members[order.permutation(len(members), seed, digit)(np.arange(len(members)))]
        chosen.append(members[:quota] if split == "train" else members[quota:])
    return np.sort(np.concatenate(chosen))


def build(split: str, *, shape: tuple = SHAPE, seed: int = 0, captions: bool = False) -> Source:
    """The `split` ('train': 1,500 images, 'test': 297) of the stratified split drawn by `seed`.

    Another `shape` than 8x8x1 resizes the images: for trying networks that need one. captions: each image has one in
    every one of WORDINGS.
    """
    from sklearn.datasets import load_digits

    if split not in SPLITS:
        raise ValueError(f"split={split!r} of digits is not known; choose from {list(SPLITS)}")
    data, shape = load_digits(), checked_shape(shape)
    index = _members(data.target, split, seed)
    label = data.target[index].astype(np.int32)
    image = np.round(data.images[index, :, :, None] * (255 / 16)).astype(np.uint8)
    if shape != SHAPE:
        image = np.stack([resize.crop(resize.picture(one), shape) for one in image])
    batch = {"image": image, "label": label, "valid": np.ones(len(index), bool)}
    if captions:
        batch["captions"] = column([tuple(prompt(wording, digit) for wording in WORDINGS) for digit in label])
    classes = tuple(str(digit) for digit in range(10))
    return Source(
        size=len(index),
        shape=image.shape[1:],
        classes=classes,
        label_counts=count_labels(label, classes),
        read=gather(batch),
        in_memory=True,
    )
