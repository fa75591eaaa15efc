"""Captions reach batches whole; which of several is a function of (seed, position); what lacks is counted and named."""

import io
import itertools
import json
import logging

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DATASETS, evaluation_batches, order, train_batches
from input_pipeline.captions import caption_lines, captions_of, choose, tokenised
from input_pipeline.source import Source, column, empty_batch, some
from tools.pack import pack

SHAPE = (2, 2, 3)
CAPTIONS = [tuple(f"{i} {word}" for word in ("one", "two", "three")[: 1 + i % 3]) for i in range(10)]


def tokenise(captions):
    """The two numbers that a caption of these tests holds."""
    words = [(caption or "0 one").split() for caption in captions]
    tokens = [[int(n), ["one", "two", "three"].index(word)] for n, word in words]
    return np.array(tokens, np.int32).reshape(-1, 2), np.ones((len(captions), 2), bool), [n == "9" for n, _ in words]


def captioned(in_memory=False):
    def read(indices):
        batch = empty_batch(len(indices), SHAPE)
        batch["valid"][:] = True
        return batch | {"captions": column([CAPTIONS[i] for i in indices])}

    return Source(10, SHAPE, None, None, read, in_memory=in_memory)


def tokens(batches, steps):
    return [batch["tokens"] for batch in itertools.islice(batches, steps)]


@pytest.mark.parametrize("in_memory", [True, False])
def test_the_choice_is_a_function_of_seed_and_position_alone(in_memory):
    source = tokenised(captioned(in_memory), tokenise)
    whole = tokens(train_batches(source, 8, 5, 0, workers=3), 9)
    np.testing.assert_array_equal(tokens(train_batches(source, 8, 5, 6, workers=1), 3), whole[6:])
    hosts = [tokens(train_batches(source, 8, 5, 0, process_index=p, process_count=4), 9) for p in range(4)]
    np.testing.assert_array_equal([np.concatenate(parts) for parts in zip(*hosts)], whole)
    other = tokens(train_batches(source, 8, 6, 0), 9)
    assert (np.array(whole)[..., 1] != np.array(other)[..., 1]).any()


def test_tokens_are_of_the_images_own_captions_and_all_of_them_come():
    source = tokenised(captioned(), tokenise)
    seen = np.concatenate(tokens(train_batches(source, 10, 0, 0), 200))  # an epoch a step
    for i, captions in enumerate(CAPTIONS):
        counts = np.bincount(seen[seen[:, 0] == i, 1], minlength=len(captions))
        assert len(counts) == len(captions) and counts.sum() == 200
        assert ((counts - 200 / len(captions)) ** 2 / (200 / len(captions))).sum() < 14  # chi-squared, one in 1000


def test_draws_are_uniform_and_unrelated_to_the_order():
    draws = np.concatenate([order.draws(step, 100, 3, np.arange(100)) for step in range(100)])
    assert len(np.unique(draws)) == 10_000
    for n in (2, 3, 5, 7):
        counts = np.bincount(choose(np.full(10_000, n), draws), minlength=n)
        assert ((counts - 10_000 / n) ** 2 / (10_000 / n)).sum() < 23
    indices = np.concatenate([order.examples(step, 100, 50, 3, np.arange(100)) for step in range(100)])
    pairs = np.histogram2d(indices % 2, (draws % np.uint64(2)).astype(int), 2)[0]
    assert ((pairs - 2500) ** 2 / 2500).sum() < 17
    np.testing.assert_array_equal(choose(np.array([0, 1, 4]), np.zeros(3, np.uint64)), 0)


def test_captions_that_were_cut_are_said(caplog):
    caplog.set_level(logging.WARNING, logger="absl")
    list(evaluation_batches(tokenised(captioned(), tokenise), 5))
    assert "cut at 2 tokens: '9 one'" in caplog.text


def test_evaluation_takes_the_first_caption_and_pads():
    source = tokenised(captioned(), tokenise)
    first, last = evaluation_batches(source, 6)
    np.testing.assert_array_equal(np.concatenate([first["tokens"], last["tokens"]])[:10, 0], np.arange(10))
    assert not last["tokens"][4:].any() and not last["text_mask"][4:].any() and last["text_mask"][:4].all()
    assert not first["tokens"][:, 1].any() and "captions" not in first
    batch = next(iter(evaluation_batches(some(source, 4), 4)))
    drawn = next(iter(evaluation_batches(some(captioned(), 4), 4)))["captions"]
    assert batch["tokens"][:, 0].tolist() == [int(row[0].split()[0]) for row in drawn]


def test_captions_under_every_usual_key():
    assert captions_of({"caption": " a cat\n"}) == captions_of({"text": b"a cat"}) == ["a cat"]
    assert captions_of({"captions": ["a", "", "b"], "caption": "c"}) == ["a", "b"]
    assert captions_of({"captions": {"id": [1, 2], "text": [b"a", b"b"]}}) == ["a", "b"]  # coco_captions
    assert captions_of({"captions": [{"id": 1, "text": "a"}, {"id": 2, "text": "b"}]}) == ["a", "b"]
    assert captions_of({"captions": np.array([b"a", b"\xff"], object)}) == ["a", "�"]
    assert captions_of({"label": 3}) == captions_of({"caption": None}) == []


@pytest.fixture
def folder(tmp_path):
    """Twelve images of which two have no caption; of 13 captions one has no image."""
    root = tmp_path / "images"
    root.mkdir()
    for i in range(12):
        Image.new("RGB", (2, 2), (i, i, i)).save(root / f"{i:02}.png")
    lines = [{"file": f"{i:02}.png", "captions": [f"{i} one", f"{i} two"]} for i in range(8)]
    lines += [{"file": "08.png", "caption": "8\u2028one"}, {"file": "08.png", "caption": "8 two"}]
    lines += [{"file": "lost.png", "caption": "99 one"}]
    (root / "captions.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines) + "\n\n")
    (root / "09.txt").write_text("9 one\n")
    return root


def build(name, path, **options):
    return DATASETS[name]("train", path=str(path), shape=SHAPE, captions=True, **options)


@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_a_folder_with_captions(folder, memory_limit, caplog):
    caplog.set_level(logging.WARNING, logger="absl")
    source = build("folder", folder, held_out=0.0, max_bad_share=0.2, memory_limit=memory_limit)
    batch = source.read(np.arange(12))
    assert batch["captions"][7] == ("7 one", "7 two") and batch["captions"][9] == ("9 one",)
    assert batch["captions"][8] == ("8\u2028one", "8 two")  # two lines for one image
    assert batch["valid"].tolist() == [True] * 10 + [False] * 2 and source.skipped() == ["10.png", "11.png"]
    assert "2 images in" in caplog.text and "have no caption (images: 12): 10.png, 11.png" in caplog.text
    assert "1 captions in" in caplog.text and "have no image (images: 12): lost.png" in caplog.text
    found = tokenised(source, tokenise)
    assert found.text(batch, np.arange(12), np.ones(12, np.uint64))["tokens"][7].tolist() == [7, 1]


def test_other_captions_are_another_set(folder):
    def digest(captions):
        return DATASETS["folder"]("train", path=str(folder), shape=SHAPE, captions=captions, max_bad_share=0.2).digest

    before, names = digest(True), digest(False)
    lines = (folder / "captions.jsonl").read_text()
    (folder / "captions.jsonl").write_text(lines.replace("3 two", "3 three"))
    assert digest(True) != before and digest(False) == names != before


def test_more_than_a_share_is_refused_in_one_line(folder):
    with pytest.raises(ValueError, match="2 images in .* have no caption .*10.png, 11.png; mend them, or raise"):
        build("folder", folder, held_out=0.0, max_bad_share=0.1)
    for name in ("10.txt", "11.txt"):
        (folder / name).write_text("10 one")
    with pytest.raises(ValueError, match="1 captions in .* have no image .*: lost.png; mend them, or raise"):
        build("folder", folder, held_out=0.0, max_bad_share=0.05)
    with pytest.raises(ValueError, match="1 captions in .* have no image"):
        pack(str(folder), str(folder / "out"), SHAPE, held_out=0.0)


@pytest.mark.parametrize("line", ["{", "[]", '{"caption": "a"}', '"text"', '{"file": ["a"], "caption": "b"}'])
def test_a_malformed_line_is_named_by_its_number(folder, line):
    with (folder / "captions.jsonl").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(ValueError, match=r"captions.jsonl, line 13, is no {\"file\": ..., \"caption\": ...} [^\n]*$"):
        caption_lines(folder)


@pytest.mark.parametrize("kind", ["raw", "png"])
@pytest.mark.parametrize("memory_limit", [0, 2**20])
def test_packed_captions(folder, tmp_path, kind, memory_limit):
    pack(str(folder), str(tmp_path / "out"), SHAPE, held_out=0.0, format=kind, shards=2, max_bad_share=0.2)
    source = build("arrayrecord", tmp_path / "out", max_bad_share=0.2, memory_limit=memory_limit)
    batch = source.read(np.arange(12))
    assert batch["captions"][3] == ("3 one", "3 two") and batch["captions"][11] == ()
    assert batch["valid"].tolist() == [True] * 10 + [False] * 2 and len(source.skipped()) == 2
    np.testing.assert_array_equal(batch["image"][:10, 0, 0, 0], np.arange(10))
    with pytest.raises(ValueError, match="2 of 12 images in .* have no caption; pack a set with captions"):
        build("arrayrecord", tmp_path / "out")


@pytest.fixture
def coco(tmp_path):
    """A set of tensorflow-datasets in the form of coco_captions; the last image has no caption."""
    tfds = pytest.importorskip("tensorflow_datasets")

    class LangevinCaptions(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            texts = tfds.features.Sequence({"id": np.int64, "text": tfds.features.Text()})
            features = {"image": tfds.features.Image(shape=(None, None, 3)), "captions": texts}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download):
            return {"train": self._generate_examples(), "test": self._generate_examples()}

        def _generate_examples(self):
            for i in range(6):
                file = io.BytesIO()
                Image.new("RGB", (2, 2), (i, i, i)).save(file, "PNG")
                captions = [{"id": n, "text": f"{i} {word}"} for n, word in enumerate(("one", "two"))]
                yield i, {"image": file.getvalue(), "captions": captions if i < 5 else []}

    LangevinCaptions(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    return {"name": "langevin_captions", "data_dir": str(tmp_path), "shape": SHAPE, "max_bad_share": 0.2}


def test_coco_captions_through_tensorflow_datasets(coco, tmp_path):
    source = DATASETS["tfds"]("train", captions=True, memory_limit=0, **coco)
    batch = source.read(np.arange(6))
    for value, captions, valid in zip(batch["image"][:, 0, 0, 0], batch["captions"], batch["valid"]):
        assert captions == ((f"{value} one", f"{value} two") if valid else ())
    assert batch["valid"].sum() == 5 and len(source.skipped()) == 1
    pack("tfds:langevin_captions", str(tmp_path / "out"), SHAPE, data_dir=str(tmp_path))
    packed = build("arrayrecord", tmp_path / "out", max_bad_share=0.2).read(np.arange(6))
    assert packed["captions"].tolist() == batch["captions"].tolist()
    with pytest.raises(ValueError, match="1 of 6 images are unreadable"):
        DATASETS["tfds"]("train", captions=True, **coco | {"max_bad_share": 0.1})
