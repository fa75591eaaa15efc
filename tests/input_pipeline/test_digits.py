"""The digits' split: 1,500 and 297, disjoint, stratified, a function of the seed."""

import numpy as np
import pytest
from sklearn.datasets import load_digits

from input_pipeline import DATASETS

digits = DATASETS["digits"]


def everything(source):
    return source.read(np.arange(source.size))


def rows(source):
    return [tuple(image.ravel()) for image in everything(source)["image"]]


def test_train_and_test_share_no_image_and_are_the_whole_set():
    train, test = digits("train"), digits("test")
    assert (train.size, test.size) == (1500, 297)
    whole = np.round(load_digits().data * 255 / 16).astype(np.uint8)
    assert sorted(rows(train) + rows(test)) == sorted(map(tuple, whole))
    assert not set(rows(train)) & set(rows(test))


def test_split_is_stratified():
    train, test = digits("train"), digits("test")
    exact = (train.label_counts + test.label_counts) * 1500 / 1797
    assert np.abs(train.label_counts - exact).max() < 1
    np.testing.assert_array_equal(np.bincount(everything(test)["label"]), test.label_counts)


def test_split_is_a_function_of_the_seed():
    assert rows(digits("train")) == rows(digits("train"))
    assert rows(digits("train")) != rows(digits("train", seed=1))


def test_labels_belong_to_the_images():
    data = load_digits()
    number = {tuple(row): label for row, label in zip(np.round(data.data * 255 / 16), data.target, strict=True)}
    test = digits("test")
    assert [number[row] for row in rows(test)] == everything(test)["label"].tolist()


def test_pixels_span_the_range_and_another_shape_resizes():
    image = everything(digits("train"))["image"]
    assert image.shape == (1500, 8, 8, 1) and image.dtype == np.uint8
    assert (image.min(), image.max()) == (0, 255)
    assert everything(digits("test", shape=(16, 12, 3)))["image"].shape == (297, 16, 12, 3)


def test_unknown_split_names_the_choices():
    with pytest.raises(ValueError, match="split='val'.*'train', 'test'"):
        digits("val")
