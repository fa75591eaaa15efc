"""Embeddings made once are those that the encoder gives, beside their images, ragged, whole after a kill."""

import itertools
import json
import pathlib
import shutil
import tarfile

import jax
import ml_dtypes
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from PIL import Image

from input_pipeline import DATASETS, arrayrecord, embeddings, evaluation_batches, train_batches
from models.t5 import Size
from models.text import batch_of
from tests.models import small_t5
from tools import embed_captions, shards
from tools.embed_captions import embed, layout, main, padded_length
from tools.pack import pack

SHAPE = (2, 2, 3)
SPIECE = pathlib.Path(__file__).parents[1] / "models" / "golden" / "spiece" / "spiece.model"
SIZE = Size(64, 96, 4, 16, 2, 64)  # matrices large enough to be split
LENGTH = 40
PLACES = ["in the snow", "on the table at night", "under an old tree " * 6]
CAPTIONS = [[f"a cat {place}" for place in PLACES[: 1 + i % 3]] for i in range(21)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    folder = small_t5.write_folder(tmp_path_factory.mktemp("t5"), SIZE, small_t5.weights(SIZE))
    shutil.copy(SPIECE, folder)
    return f"t5(path={folder!r}, length={LENGTH}, dtype='float32')"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for i in range(21):
        Image.new("RGB", (2, 2), (i, i, i)).save(root / f"{i:02}.png")
    lines = [{"file": f"{i:02}.png", "captions": captions} for i, captions in enumerate(CAPTIONS)]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("packed"))
    pack(str(images), out, SHAPE, held_out=0.0, shards=2)
    return out


@pytest.fixture(scope="module")
def expected(spec):
    """Of each image, the embeddings of each caption: one program, no batch, no mesh, no padding left."""
    encoder = embed_captions.build_encoder(spec)
    params, encode = encoder.load(), jax.jit(encoder.encode)

    def rows(captions):
        part, _ = batch_of(encoder, captions + [""] * (3 - len(captions)))
        text = np.asarray(encode(params, part["tokens"], part["text_mask"]))
        return [row[mask] for row, mask in zip(text, part["text_mask"])][: len(captions)]

    return [rows(captions) for captions in CAPTIONS]


def close(found, rows):
    """Equal to bfloat16's rounding, whose last place may fall on either side."""
    assert found.dtype == ml_dtypes.bfloat16 and found.shape == rows.shape
    np.testing.assert_allclose(found.astype(np.float32), rows, rtol=2**-8, atol=1e-4)


def stored(output):
    index = arrayrecord.read_index(output, "train")
    records = arrayrecord.open_shards(output, index).read(np.arange(index["size"]))
    return index, records


def source_of(packed, output):
    source = DATASETS["arrayrecord"]("train", path=packed)
    return embeddings.embedded(source, output, "train", width=SIZE.width, length=LENGTH)


def test_every_caption_is_stored_without_padding(packed, spec, expected, tmp_path, capsys):
    said = embed(packed, str(tmp_path), spec, shards=3, batch_size=5)
    index, records = stored(tmp_path)
    assert said.startswith("42 captions of 21 images, 7 of them cut at 40 tokens:")
    tokens = sum(len(rows) for captions in expected for rows in captions)
    assert (index["captions"], index["tokens"], index["cut"], index["captioned"]) == (42, tokens, 7, 21)
    for record, captions in zip(records, expected):
        assert len(record) == 2 + 2 * len(captions) + sum(2 * rows.size for rows in captions)
        for draw, rows in enumerate(captions):
            close(embeddings.decode(record, SIZE.width, draw), rows)
    assert f"about {tokens * SIZE.width * 2 / 1e9:.3g} GB: 42 captions" in capsys.readouterr().out


def test_batches_carry_the_chosen_caption_beside_its_image(packed, spec, expected, tmp_path):
    embed(packed, str(tmp_path), spec, shards=2)
    source, seen = source_of(packed, str(tmp_path)), set()
    for batch in itertools.islice(train_batches(source, 8, 0, 0), 12):
        assert batch["text"].shape == (8, LENGTH, SIZE.width) and "captions" not in batch
        for image, rows, mask in zip(batch["image"][:, 0, 0, 0], batch["text"], batch["text_mask"]):
            chosen = next(i for i, one in enumerate(expected[image]) if len(one) == mask.sum())
            close(rows[mask], expected[image][chosen])
            assert not rows[~mask].any() and not mask[mask.sum() :].any()
            seen.add((int(image), chosen))
    assert len(seen) > 35  # of 42
    for batch in evaluation_batches(source, 16):
        for image, rows, mask in zip(batch["image"][:, 0, 0, 0], batch["text"], batch["text_mask"]):
            assert not mask.any() or len(rows[mask]) == len(expected[image][0])
    assert batch["valid"].sum() == 5


def test_a_run_cut_short_goes_on_and_parts_share_the_shards(packed, spec, tmp_path, monkeypatch):
    options = {"shards": 4, "batch_size": 8}
    whole, cut, parts = (str(tmp_path / name) for name in ("whole", "cut", "parts"))
    embed(packed, whole, spec, **options)
    encode, calls = embeddings.encode, itertools.count()

    def stopped(captions):
        if next(calls) == 13:  # in the third shard
            raise KeyboardInterrupt
        return encode(captions)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(embeddings, "encode", stopped)
        embed(packed, cut, spec, **options)
    kept = {file: file.stat().st_mtime_ns for file in pathlib.Path(cut).glob("*.arrayrecord")}
    assert len(kept) == 2 and list(pathlib.Path(cut).glob("*.part")) and not (pathlib.Path(cut) / "train.json").exists()
    embed(packed, cut, spec, **options)
    assert {file: file.stat().st_mtime_ns for file in kept} == kept
    said = [embed(packed, parts, spec, part=part, **options) for part in ("1/2", "0/2")]
    assert said[0].startswith("2 of 4 shards are to come from other parts") and said[1].startswith("42 captions")
    for folder in (cut, parts):
        for file in pathlib.Path(whole).iterdir():
            assert file.read_bytes() == (pathlib.Path(folder) / file.name).read_bytes()
    with pytest.raises(ValueError, match="packed otherwise, .*'number': .4, 3."):
        embed(packed, whole, spec, shards=3, batch_size=8)


def test_embeddings_of_the_same_images_are_known_however_they_were_read(images, packed, spec, tmp_path):
    with tarfile.open(tmp_path / "0.tar", "w") as tar:  # img2dataset's layout
        for i in range(21):
            name = f"{i:09}"
            (tmp_path / f"{name}.json").write_text(json.dumps({"key": name, "caption": CAPTIONS[i][0], "status": "ok"}))
            (tmp_path / f"{name}.txt").write_text(CAPTIONS[i][0])
            shutil.copy(images / f"{i:02}.png", tmp_path / f"{name}.png")
            for suffix in ("png", "txt", "json"):
                tar.add(tmp_path / f"{name}.{suffix}", f"{name}.{suffix}")
    pack(f"{tmp_path}/*.tar", str(tmp_path / "shards"), SHAPE)
    embed(f"{tmp_path}/*.tar", str(tmp_path / "tars"), spec)
    embed(str(images), str(tmp_path / "folder"), spec, held_out=0.0)
    folder = DATASETS["folder"]("train", path=str(images), shape=SHAPE, held_out=0.0)
    given = {"split": "train", "width": SIZE.width, "length": LENGTH}
    assert embeddings.embedded(folder, str(tmp_path / "folder"), **given).size == 21
    assert source_of(packed, str(tmp_path / "folder")).size == 21
    assert source_of(str(tmp_path / "shards"), str(tmp_path / "tars")).size == 21
    with pytest.raises(ValueError, match="holds embeddings of other images .21, here 21.; embed the captions of"):
        embeddings.embedded(folder, str(tmp_path / "tars"), **given)
    for change in ({"width": 8}, {"length": LENGTH - 1}):
        with pytest.raises(
            ValueError, match="holds embeddings 64 wide, of captions of up to 40 tokens; the encoder is"
        ):
            embeddings.embedded(folder, str(tmp_path / "folder"), **given | change)
    assert embeddings.embedded(folder, str(tmp_path / "folder"), **given | {"length": 50}).size == 21


def test_a_damaged_record_is_masked_and_named(packed, spec, tmp_path):
    embed(packed, str(tmp_path), spec, shards=1)
    shard, record = tmp_path / "train-00000-of-00001.arrayrecord", stored(tmp_path)[1][1]
    content = bytearray(shard.read_bytes())
    content[content.index(record[:60]) + 30] ^= 255
    shard.write_bytes(content)
    source = DATASETS["arrayrecord"]("train", path=packed)
    given = {"split": "train", "width": SIZE.width, "length": LENGTH}
    source = embeddings.embedded(source, str(tmp_path), max_bad_share=0.1, **given)
    (batch,) = evaluation_batches(source, 21)
    assert np.flatnonzero(~batch["valid"]).tolist() == [1] and source.skipped() == [f"{shard.name}:1"]


def test_only_the_size_may_be_asked_for(packed, spec, tmp_path, capsys):
    main(["x", f"--input={packed}", f"--output={tmp_path}/out", f"--encoder={spec}", "--estimate"])
    out = capsys.readouterr().out
    assert "about" in out and "nothing written" in out and not (tmp_path / "out").exists()


def test_images_without_a_caption_are_named_and_more_than_a_share_refused(images, spec, tmp_path):
    root = tmp_path / "images"
    shutil.copytree(images, root)
    for name in ("extra", "other"):
        shutil.copy(root / "00.png", root / f"{name}.png")
    with pytest.raises(
        ValueError, match=r"2 of those looked at have no caption \(images: 23\): extra.png \(no caption\)"
    ):
        embed(str(root), str(tmp_path / "out"), spec, held_out=0.0)
    embed(str(root), str(tmp_path / "out"), spec, held_out=0.0, max_bad_share=0.1)
    index, records = stored(tmp_path / "out")
    assert index["skipped"] == {"extra.png": "no caption", "other.png": "no caption"} and records[-1] == bytes(2)
    folder = DATASETS["folder"]("train", path=str(root), shape=SHAPE, held_out=0.0)
    source = embeddings.embedded(folder, str(tmp_path / "out"), "train", width=SIZE.width, length=LENGTH)
    (batch,) = evaluation_batches(source, 23)
    assert batch["valid"].sum() == 21 and not batch["text_mask"][21:].any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"encoder": "bytes(length=8)"}, "is learned with the network: it has nothing to embed"),
        ({"encoder": "t6(path='x')"}, "choose from bytes, hf, t5"),
        ({"encoder": "t5(path='none/such')"}, "config.json is missing"),
        ({"part": "2/2"}, "--part=2/2 must be I/N with I below N"),
        ({"input": "none/such"}, "not a local folder"),
        ({"output": "gs://bucket/x"}, "--output=gs://bucket/x is no local folder"),
        ({"batch_size": "0"}, "batch_size"),
    ],
)
def test_mistakes_are_one_line_and_status_2(packed, spec, tmp_path, capsys, options, message):
    given = {"input": packed, "output": f"{tmp_path}/out", "encoder": spec} | options
    with pytest.raises(SystemExit) as caught:
        main(["x", *(f"--{key}={value}" for key, value in given.items())])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1


def test_a_full_disk_is_seen_before_anything_is_written(packed, spec, tmp_path, monkeypatch):
    monkeypatch.setattr(embed_captions.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 10))
    with pytest.raises(ValueError, match="has 1e-08 GB free, and .* GB are to be written"):
        embed(packed, str(tmp_path), spec)
    assert not list(tmp_path.glob("*.arrayrecord*"))


def test_records_say_how_long_they_are():
    rows = [np.ones((2, 3)), np.zeros((0, 3)), np.full((1, 3), 2.0)]
    record = embeddings.encode(rows)
    assert [len(embeddings.decode(record, 3, draw)) for draw in range(4)] == [2, 0, 1, 2]
    assert embeddings.decode(embeddings.encode([]), 3).shape == (0, 3)
    with pytest.raises(ValueError, match="bytes do not hold 3 rows of 4"):
        embeddings.decode(record, 4)


def test_the_encoder_is_split_over_all_devices(spec):
    mesh, rule = layout(jax.devices())
    params = embed_captions.build_encoder(spec).load(rule)
    assert params["blocks"]["wi_0"]["kernel"].addressable_shards[0].data.size == 2 * 64 * 96 / 8
    assert rule("blocks/wi_0/kernel", (24, 4096, 10240)).spec == P(None, None, "fsdp") and mesh.size == 8


def test_few_lengths_have_a_program():
    assert [padded_length(n, 100) for n in (0, 16, 17, 64, 65, 100)] == [16, 16, 32, 64, 100, 100]


def test_notes_are_written_whole(tmp_path):
    shards.write_json(tmp_path / "a.json", {"a": 1})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": 1} and len(list(tmp_path.iterdir())) == 1
