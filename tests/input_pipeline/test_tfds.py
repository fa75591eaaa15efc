"""Sets of tensorflow-datasets are read without TensorFlow, and what lacks is said in a line."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DATASETS
from input_pipeline.tfds import checked_label, split_name

tfds = pytest.importorskip("tensorflow_datasets")
build = DATASETS["tfds"]
SHAPE = (4, 4, 3)


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (value, value, value)).save(file, "PNG")
    return file.getvalue()


class LangevinToy(tfds.core.GeneratorBasedBuilder):
    """PNG bytes, which need no TensorFlow to prepare; the image of label 1 is broken once."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, 3)),
            "pixels": tfds.features.Tensor(shape=(6, 6, 1), dtype=np.uint8),
            "label": tfds.features.ClassLabel(names=["a", "b"]),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, download):
        return {
            "train": self._generate_examples(range(40)),
            "validation": self._generate_examples(range(40, 50)),
        }

    def _generate_examples(self, values):
        for value in values:
            image = b"broken" if value == 7 else png(value)
            pixels = np.full((6, 6, 1), value, np.uint8)
            yield value, {"image": image, "pixels": pixels, "label": value % 2}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    place = str(tmp_path_factory.mktemp("tfds"))
    LangevinToy(data_dir=place, file_format="array_record").download_and_prepare()
    return place


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_round_trip_without_tensorflow(data_dir, memory_limit):
    options = dict(name="langevin_toy", data_dir=data_dir, shape=SHAPE, max_bad_share=0.1)
    source = build("train", memory_limit=memory_limit, **options)
    batch = source.read(np.arange(40))
    pixel, valid = batch["image"][:, 0, 0, 0], batch["valid"]
    assert sorted(pixel[valid]) == [value for value in range(40) if value != 7]
    np.testing.assert_array_equal(batch["label"][valid], pixel[valid] % 2)
    assert source.classes == ("a", "b") and len(source.skipped()) == 1
    assert source.label_counts is None if memory_limit == 0 else source.label_counts.tolist() == [20, 19]
    assert build("test", **options).size == 10
    assert "tensorflow" not in sys.modules


def test_tensor_features_and_sets_without_labels(data_dir):
    options = dict(name="langevin_toy", data_dir=data_dir, image="pixels", label="none")
    source = build("train", shape=(6, 6, 1), **options)
    assert source.classes is None and sorted(source.read(np.arange(40))["image"][:, 0, 0, 0]) == list(range(40))


def test_too_many_unreadable_images_stop(data_dir):
    with pytest.raises(ValueError, match="1 of 40 images are unreadable.*langevin_toy/train:"):
        build("train", name="langevin_toy", data_dir=data_dir, shape=SHAPE)


@pytest.mark.parametrize(
    "splits, train, test",
    [
        (["train", "test"], "train", "test"),
        (["train", "validation"], "train", "validation"),
        (["train", "validation", "test"], "train", "test"),
        (["train"], "train[:95%]", "train[95%:]"),
    ],
)
def test_splits_are_named_and_differ(splits, train, test):
    assert (split_name("train", splits), split_name("test", splits)) == (train, test)


def test_what_lacks_is_said(data_dir, monkeypatch):
    def message(split="train", **options):
        with pytest.raises(ValueError) as caught:
            build(split, **{"name": "langevin_toy", "data_dir": data_dir, "shape": SHAPE, **options})
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "near: ['mnist'" in message(name="mnits")
    assert "tfds build mnist --file_format=array_record" in message(name="mnist")
    assert "['image', 'label', 'pixels']" in message(image="picture")
    assert "['train', 'validation']" in message("unsupervised")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install" in message()


def test_a_tfrecord_set_says_how_to_prepare_it(data_dir, tmp_path):
    place = tmp_path / "langevin_old" / "1.0.0"
    place.mkdir(parents=True)
    for file in Path(data_dir, "langevin_toy", "1.0.0").glob("*.json"):
        place.joinpath(file.name).write_text(file.read_text())
    info = json.loads((place / "dataset_info.json").read_text())
    info.update(name="langevin_old", fileFormat="tfrecord")
    (place / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match="has the tfrecord format.*--file_format=array_record"):
        build("train", name="langevin_old", data_dir=str(tmp_path), shape=SHAPE)


def test_unknown_labels_are_unreadable_examples():
    assert checked_label(np.int64(1), ("a", "b")) == 1
    for label in (-1, 2):
        with pytest.raises(ValueError, match="none of the 2 classes"):
            checked_label(label, ("a", "b"))
