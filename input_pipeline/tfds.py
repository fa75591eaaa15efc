"""Any prepared image set of tensorflow-datasets, by name, through its data source: no TensorFlow.

Only sets in a random-access format can be read so. A stock set is prepared once, on a machine with
TensorFlow, and its folder (~/tensorflow_datasets/NAME) copied where it is needed:

    pip install tensorflow tensorflow-datasets array_record
    tfds build NAME --file_format=array_record

A builder that yields PNG or JPEG bytes, or Tensor(uint8) features, needs no TensorFlow to prepare.
"""

import difflib
import io

import numpy as np

from input_pipeline import captions as texts
from input_pipeline import resize
from input_pipeline.source import (
    MAX_BAD_SHARE,
    MEMORY_LIMIT,
    WORKERS,
    Source,
    Unreadable,
    checked_shape,
    digest_of,
    held,
    read_each,
)


def _import_tfds():
    try:
        import array_record  # noqa: F401  tfds reads through it, and says little where it lacks
        import tensorflow_datasets as tfds
    except ImportError as error:
        fix = "pip install 'tensorflow-datasets>=4.9.8' 'array_record>=0.8'"
        raise ValueError(f"data set tfds needs {error.name}: {fix}") from error
    return tfds


def prepared(name: str, data_dir: str | None = None):
    """The builder of a set that is prepared in a format of random access; ValueError otherwise."""
    tfds = _import_tfds()
    where = data_dir or "~/tensorflow_datasets"
    prepare = f"on a machine with TensorFlow run `tfds build {name} --file_format=array_record`"
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        close = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False))
        raise ValueError(f"tfds knows no set {name!r}, {where} has none; near: {close}") from error
    if not builder.info.splits:
        raise ValueError(f"tfds set {name!r} is not prepared in {where}; {prepare}, copy it there")
    try:
        builder.as_data_source(next(iter(builder.info.splits)))
    except NotImplementedError as error:
        raise ValueError(
            f"tfds set {name!r} in {where} has the {builder.info.file_format.value} format, which "
            f"only TensorFlow reads; remove it, {prepare}, copy it there"
        ) from error
    return builder


def split_name(split: str, available) -> str:
    """The tfds name of a split: 'test' may be its validation, or the end of its only split."""
    if split in available:
        alone = split == "train" and not {"test", "validation"} & set(available)
        return "train[:95%]" if alone else split
    if split == "test" and "train" in available:
        return "validation" if "validation" in available else "train[95%:]"
    if split.split("[")[0] in available:  # a slice of tfds's own, as 'train[:10%]'
        return split
    raise ValueError(f"split={split!r} is not in this set; choose from {sorted(available)}")


def feature(features, key, name):
    """The feature `key`; ValueError with the choices."""
    if key not in features:
        raise ValueError(f"tfds set {name!r} lacks feature {key!r}; choose from {sorted(features)}")
    return features[key]


def as_pixels(value: bytes | np.ndarray, shape: tuple, preprocess: str) -> np.ndarray:
    """uint8 [h w c] from a feature's value: PNG or JPEG bytes, or uint8 pixels."""
    if isinstance(value, bytes):
        return resize.decode(io.BytesIO(value), shape, preprocess)
    return resize.PREPROCESS[preprocess](resize.picture(value), shape)


def examples(builder, split, image, label):
    """(random access to dicts with images undecoded, class names or None)."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    feature(features, image, builder.name)
    pictures = (key for key in features if isinstance(features[key], tfds.features.Image))
    skip = {key: tfds.decode.SkipDecoding() for key in pictures}
    labelled = label in features and isinstance(features[label], tfds.features.ClassLabel)
    classes = tuple(features[label].names) if labelled else None
    return builder.as_data_source(split, decoders=skip), classes


def names(name: str, split: str, size: int) -> list[str]:
    """What each example is called."""
    return [f"{name}/{split}:{index}" for index in range(size)]


def checked_label(label: int, classes: tuple) -> int:
    """The label as an int; ValueError where it is no class (tfds marks unknown labels with -1)."""
    if not 0 <= label < len(classes):
        raise ValueError(f"label {label} is none of the {len(classes)} classes")
    return int(label)


def build(
    split: str,
    *,
    name: str,
    shape: tuple,
    data_dir: str | None = None,
    image: str = "image",
    label: str = "label",
    preprocess: str = "crop",
    captions: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    memory_limit: int = MEMORY_LIMIT,
    workers: int = WORKERS,
) -> Source:
    """The `split` of the prepared set `name`, as images of `shape`.

    'test' is the set's test split, else its validation split, else the last 5% of train (which
    'train' then leaves out); any other split or slice of tfds's own is taken as it is. `image`
    and `label` are feature names; without a ClassLabel feature of that name there are no classes.
    Captions lie under the usual keys, as in coco_captions: input_pipeline/captions.py.
    ValueError where tfds, the set, a split or a feature lacks, saying what to do.
    """
    shape = checked_shape(shape)
    resize.check(preprocess, shape)
    builder = prepared(name, data_dir)
    split = split_name(split, builder.info.splits)
    found, classes = examples(builder, split, image, label)
    unreadable = Unreadable(len(found), max_bad_share)

    def load(index):
        example = found[int(index)]
        number = checked_label(example[label], classes) if classes else 0
        return as_pixels(example[image], shape, preprocess), number, texts.captions_of(example)

    source = Source(
        size=len(found),
        shape=shape,
        classes=classes,
        label_counts=None,
        read=read_each(load, f"{name}/{split}:{{}}".format, shape, unreadable, captions),
        skipped=unreadable.names,
        digest=digest_of(names(name, split, len(found))),
    )
    return held(source, memory_limit, workers)
