"""Record shards: records round-trip, damage is found, masked and named, the index is believed."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DATASETS, arrayrecord
from tools.pack import pack

build = DATASETS["arrayrecord"]
SHAPE = (5, 4, 3)


@pytest.fixture
def packed(tmp_path):
    """Twenty images in three shards; image i is filled with i."""
    for i in range(20):
        Image.new("RGB", (4, 5), (i, i, i)).save(tmp_path / f"{i:02}.png")
    pack(str(tmp_path), str(tmp_path / "out"), SHAPE, held_out=0.0, shards=3)
    return tmp_path / "out"


@pytest.mark.parametrize("image, label, captions", [(b"pixels", 3, []), (b"", -1, ["a", "ü\n"]), (b"{}", 7, [""])])
def test_records_round_trip(image, label, captions):
    assert arrayrecord.decode(arrayrecord.encode(image, label, captions)) == (image, label, captions)


def test_any_indices_in_any_order(packed):
    source = build("train", path=packed, memory_limit=0)
    at = np.array([19, 0, 7, 7, 3, 12])
    np.testing.assert_array_equal(source.read(at)["image"][:, 0, 0, 0], at)
    assert source.read(at[:0])["image"].shape == (0, *SHAPE)


def test_a_damaged_record_is_masked_and_named(packed):
    shard = packed / "train-00001-of-00003.arrayrecord"
    content = bytearray(shard.read_bytes())
    content[content.index(bytes([9]) * 60) + 5] ^= 255
    shard.write_bytes(content)
    source = build("train", path=packed, memory_limit=0, max_bad_share=0.1)
    batch = source.read(np.arange(20))
    assert np.flatnonzero(~batch["valid"]).tolist() == [9]
    assert source.skipped() == ["train-00001-of-00003.arrayrecord:2"]
    with pytest.raises(ValueError, match="1 of 20 images are unreadable"):
        build("train", path=packed, memory_limit=0).read(np.arange(20))


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:-9])])
def test_a_missing_or_cut_off_shard_is_refused(packed, damage):
    damage(packed / "train-00002-of-00003.arrayrecord")
    with pytest.raises(ValueError, match="train-00002-of-00003.arrayrecord has .* bytes, not"):
        build("train", path=packed)


def test_wrong_shape_and_missing_split_are_refused(packed):
    assert build("train", path=packed, shape=SHAPE).shape == SHAPE
    with pytest.raises(ValueError, match=r"holds \(5, 4, 3\) images, not \(8, 8, 3\)"):
        build("train", path=packed, shape=(8, 8, 3))
    with pytest.raises(ValueError, match="test.json is missing; splits there: .'train'."):
        build("test", path=packed)
    assert json.loads((packed / "train.json").read_text())["size"] == 20


def test_a_missing_library_is_said(packed, monkeypatch):
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(ValueError, match="pip install 'array_record"):
        build("train", path=packed)
