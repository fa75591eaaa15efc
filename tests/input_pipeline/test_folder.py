"""Folders: splits, classes, law 23 for unreadable files, one line for every mistake."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DATASETS, train_batches

folder = DATASETS["folder"]
SHAPE = (4, 4, 3)


def write(path, value=0, size=(6, 5)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (value, value, value)).save(path)


def fill(root, names):
    for value, name in enumerate(names):
        write(root / name, value)


def values(source):
    batch = source.read(np.arange(source.size))
    return batch["image"][:, 0, 0, 0].tolist()


@pytest.mark.parametrize("held_out", ["test", "val", "validation"])
def test_own_split_is_taken_and_labels_agree_over_splits(tmp_path, held_out):
    fill(
        tmp_path,
        ["train/a/0.png", "train/b/1.png", "train/c/2.png", f"{held_out}/c/3.png", f"{held_out}/b/4.png"],
    )
    train, test = (folder(split, path=tmp_path, shape=SHAPE) for split in ("train", "test"))
    assert train.classes == test.classes == ("a", "b", "c")
    assert (values(train), values(test)) == ([0, 1, 2], [4, 3])
    assert test.read(np.arange(2))["label"].tolist() == [1, 2]
    assert test.label_counts.tolist() == [0, 1, 1]


def test_a_class_called_train_is_a_class_among_others(tmp_path):
    fill(tmp_path, [f"{name}/{i}.png" for name in ("car", "bus", "train", "test") for i in range(3)])
    assert folder("train", path=tmp_path, shape=SHAPE).classes == ("bus", "car", "test", "train")


def test_held_out_share_is_disjoint_complete_and_a_function_of_names_and_seed(tmp_path):
    fill(tmp_path, [f"{i:03}.png" for i in range(100)])
    options = dict(path=tmp_path, shape=SHAPE, held_out=0.1)
    train, test = (values(folder(split, **options)) for split in ("train", "test"))
    assert (len(train), len(test)) == (90, 10) and sorted(train + test) == list(range(100))
    assert values(folder("test", **options)) == test != values(folder("test", seed=1, **options))


def test_nested_folders_dots_and_other_files(tmp_path):
    fill(tmp_path, ["a/x/0.png", "a/1.JPG", "b/deep/er/2.png", "b/._3.png", ".cache/4.png", "b/5.webp"])
    (tmp_path / "b" / "notes.txt").write_text("no image")
    source = folder("train", path=tmp_path, shape=SHAPE, held_out=0.25)
    assert source.size == 3 and source.classes == ("a", "b")


@pytest.mark.parametrize("labels, classes", [(None, ("a", "b")), (True, ("a", "b")), (False, None)])
def test_subfolders_are_classes_unless_told_otherwise(tmp_path, labels, classes):
    fill(tmp_path, ["a/0.png", "b/1.png", "a/2.png"])
    source = folder("train", path=tmp_path, shape=SHAPE, labels=labels)
    assert source.classes == classes and (source.label_counts is None) == (classes is None)


@pytest.mark.parametrize("names", [["a/0.png", "a/1.png"], ["a/0.png", "b/1.png", "2.png"], ["0.png", "1.png"]])
def test_one_class_or_loose_images_are_no_classes(tmp_path, names):
    fill(tmp_path, names)
    assert folder("train", path=tmp_path, shape=SHAPE).classes is None
    with pytest.raises(ValueError, match="class subfolders"):
        folder("train", path=tmp_path, shape=SHAPE, labels=True)


@pytest.mark.parametrize("memory_limit", [0, 2**30])
def test_unreadable_images_are_masked_counted_and_named(tmp_path, memory_limit):
    fill(tmp_path / "train", [f"{i}.png" for i in range(8)])
    fill(tmp_path / "test", ["0.png"])
    (tmp_path / "train" / "2.png").write_bytes(b"not an image")
    whole = (tmp_path / "train" / "3.png").read_bytes()
    (tmp_path / "train" / "3.png").write_bytes(whole[: len(whole) // 2])
    options = dict(path=tmp_path, shape=SHAPE, memory_limit=memory_limit)
    source = folder("train", max_bad_share=0.25, **options)
    batch = source.read(np.arange(8))
    assert np.flatnonzero(~batch["valid"]).tolist() == [2, 3]
    assert not batch["image"][[2, 3]].any() and sorted(source.skipped()) == ["2.png", "3.png"]
    source.read(np.arange(8))
    assert len(source.skipped()) == 2  # counted once each
    with pytest.raises(ValueError, match="2 of 8 images are unreadable.*max_bad_share=0.2.*[23].png"):
        source = folder("train", max_bad_share=0.2, **options)
        next(train_batches(source, 8, 0, 0))


def test_memory_and_streaming_give_the_same_batches(tmp_path):
    fill(tmp_path, [f"{'ab'[i % 2]}/{i}.png" for i in range(12)])
    held, streamed = (folder("train", path=tmp_path, shape=SHAPE, memory_limit=limit) for limit in (2**30, 0))
    assert held.in_memory and not streamed.in_memory
    one, other = (next(train_batches(source, 8, 0, 5)) for source in (held, streamed))
    for key in one:
        np.testing.assert_array_equal(one[key], other[key])


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(path="nowhere"), "not a local folder"),
        (dict(path="gs://bucket/images"), "not a local folder"),
        (dict(path=""), "path is not given"),
        (dict(), "holds no image of split 'train'"),
        (dict(shape=(0, 4, 3)), "shape="),
        (dict(shape=(4, 4, 2)), "channels 1"),
        (dict(preprocess="squash"), "preprocess='squash'"),
        (dict(split="dev"), "split='dev'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        folder(**{"split": "train", "path": tmp_path, "shape": SHAPE, **options})
    assert "\n" not in str(caught.value)


def test_a_single_image_leaves_nothing_to_train_on(tmp_path):
    fill(tmp_path, ["0.png"])
    with pytest.raises(ValueError, match="holds no image of split 'train'"):
        folder("train", path=tmp_path, shape=SHAPE)


def test_importing_the_input_pipeline_imports_no_framework():
    heavy = "jax tensorflow sklearn tensorflow_datasets array_record".split()
    program = f"import sys, input_pipeline; sys.exit(str([m for m in {heavy} if m in sys.modules] or ''))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""
