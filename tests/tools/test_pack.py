"""Packing keeps pixels, labels and captions, names what it leaves out, and goes on after a kill."""

import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from input_pipeline import DATASETS, arrayrecord
from tools.pack import main, pack

SHAPE = (6, 6, 3)
RNG = np.random.default_rng(0)


def pixels():
    return RNG.integers(0, 256, SHAPE, dtype=np.uint8)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def fill(root, names):
    images = {name: pixels() for name in names}
    for name, image in images.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(png(image))
    return images


def read(output, split="train"):
    source = DATASETS["arrayrecord"](split, path=str(output), memory_limit=0)
    return source, source.read(np.arange(source.size))


def captions(output, split="train"):
    index = arrayrecord.read_index(output, split)
    records = arrayrecord.open_shards(output, index).read(np.arange(index["size"]))
    return [arrayrecord.decode(record)[2] for record in records]


@pytest.mark.parametrize("format, error", [("raw", 0), ("png", 0), ("jpeg", 80)])
def test_a_folder_keeps_its_pixels_labels_and_split(tmp_path, format, error):
    images = fill(tmp_path / "in", [f"{kind}/{i}.png" for kind in "ab" for i in range(5)])
    for split in ("train", "test"):
        pack(
            str(tmp_path / "in"),
            str(tmp_path / "out"),
            SHAPE,
            split=split,
            held_out=0.3,
            format=format,
            shards=2,
        )
        source, batch = read(tmp_path / "out", split)
        folder = DATASETS["folder"](split, path=tmp_path / "in", shape=SHAPE, held_out=0.3)
        listed = folder.read(np.arange(folder.size))
        assert np.abs(batch["image"].astype(int) - listed["image"]).max() <= error
        np.testing.assert_array_equal(batch["label"], listed["label"])
        assert source.classes == ("a", "b")
        np.testing.assert_array_equal(source.label_counts, folder.label_counts)
    assert len(images) == 10


def test_captions_of_a_folder(tmp_path):
    fill(tmp_path, ["0.png", "1.png", "2.png", "3.png"])
    lines = [
        {"file": "0.png", "caption": "one", "captions": ["one", "uno"]},
        {"file": "1.png", "caption": "two"},
    ]
    (tmp_path / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "2.txt").write_text("three\n")
    index = pack(str(tmp_path), str(tmp_path / "out"), SHAPE, held_out=0.0, shards=2)
    assert captions(tmp_path / "out") == [["one", "uno"], ["two"], ["three"], []]
    assert index["captioned"] == 3 and read(tmp_path / "out")[1]["valid"].all()


def add(tar, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def test_webdataset_tars(tmp_path):
    images = [pixels() for _ in range(6)]
    for shard in range(2):
        with tarfile.open(tmp_path / f"{shard}.tar", "w") as tar:
            for i in range(3 * shard, 3 * shard + 3):
                add(tar, f"x/{i:03}.png", png(images[i]))
                add(tar, f"x/{i:03}.cls", str(i % 3).encode())
                if i % 2:
                    add(tar, f"x/{i:03}.txt", f"number {i}".encode())
                else:
                    add(tar, f"x/{i:03}.json", json.dumps({"caption": f"even {i}"}).encode())
    pack(f"{tmp_path}/*.tar", str(tmp_path / "out"), SHAPE, shards=4)
    source, batch = read(tmp_path / "out")
    np.testing.assert_array_equal(batch["image"], images)
    assert batch["label"].tolist() == [0, 1, 2, 0, 1, 2] and source.label_counts.tolist() == [2, 2, 2]
    assert captions(tmp_path / "out")[:2] == [["even 0"], ["number 1"]]


def test_a_tfds_set(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    images = [pixels() for _ in range(8)]

    class PackToy(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=["a", "b"]),
                "caption": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, download):
            return {"train": self._generate_examples(range(6)), "test": self._generate_examples(range(6, 8))}

        def _generate_examples(self, numbers):
            for i in numbers:
                yield i, {"image": png(images[i]), "label": i % 2, "caption": f"number {i}"}

    PackToy(data_dir=str(tmp_path), file_format="array_record").download_and_prepare()
    pack("tfds:pack_toy", str(tmp_path / "out"), SHAPE, data_dir=str(tmp_path), shards=2)
    source, batch = read(tmp_path / "out")
    numbers = [int(one.removeprefix("number ")) for (one,) in captions(tmp_path / "out")]
    assert sorted(numbers) == list(range(6)) and source.classes == ("a", "b")
    np.testing.assert_array_equal(batch["image"], [images[i] for i in numbers])
    np.testing.assert_array_equal(batch["label"], [i % 2 for i in numbers])


def test_unreadable_images_are_left_out_counted_and_named(tmp_path):
    fill(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"broken")
    options = dict(held_out=0.0, shards=1)
    with pytest.raises(ValueError, match="1 of 3 images are unreadable.*1.png"):
        pack(str(tmp_path), str(tmp_path / "out"), SHAPE, **options)
    assert not (tmp_path / "out" / "train.json").exists()
    index = pack(str(tmp_path), str(tmp_path / "out"), SHAPE, max_bad_share=0.5, **options)
    assert index["size"] == 2 and list(index["skipped"]) == ["1.png"]
    assert read(tmp_path / "out")[1]["valid"].tolist() == [True, True]


SLOW = """
import sys, time
from tools import pack
make = pack.make_record
pack.make_record = lambda index, **how: time.sleep(0.02) or make(index, **how)
pack.pack(sys.argv[1], sys.argv[2], (6, 6, 3), held_out=0.0, shards=6, workers=1)
"""


def test_a_killed_run_goes_on_where_it_stopped(tmp_path):
    fill(tmp_path / "in", [f"{i:02}.png" for i in range(60)])
    out, whole = tmp_path / "out", tmp_path / "whole"
    root = Path(__file__).resolve().parents[2]
    run = subprocess.Popen([sys.executable, "-c", SLOW, str(tmp_path / "in"), str(out)], cwd=root)
    deadline = time.monotonic() + 30
    while len(list(out.glob("*.arrayrecord"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    kept = {file.name: file.stat().st_mtime_ns for file in out.glob("*.arrayrecord")}
    assert 2 <= len(kept) < 6 and not (out / "train.json").exists()
    pack(str(tmp_path / "in"), str(out), SHAPE, held_out=0.0, shards=6)
    pack(str(tmp_path / "in"), str(whole), SHAPE, held_out=0.0, shards=6)
    assert {name: (out / name).stat().st_mtime_ns for name in kept} == kept
    assert not list(out.glob("*.part"))
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes()


def test_other_settings_over_a_packed_split_are_refused(tmp_path):
    fill(tmp_path / "in", ["0.png", "1.png"])
    pack(str(tmp_path / "in"), str(tmp_path / "out"), SHAPE)
    with pytest.raises(ValueError, match="'format': .'raw', 'png'."):
        pack(str(tmp_path / "in"), str(tmp_path / "out"), SHAPE, format="png")


@pytest.mark.parametrize(
    "options, message",
    [
        (["--input=IN"], "--output"),
        (["--input=IN", "--output=OUT", "--size=x"], "--size=x must be"),
        (["--input=IN", "--output=OUT", "--size=8", "--format=gif"], "format"),
        (["--input=IN", "--output=OUT", "--size=8,4", "--preprocess=adm"], "squares"),
        (["--input=IN/none", "--output=OUT", "--size=8"], "not a local folder"),
        (["--input=IN/x*.tar", "--output=OUT", "--size=8"], "matches no tar"),
        (["--input=IN/bad.tar", "--output=OUT", "--size=8"], "no uncompressed tar"),
        (["--input=tfds:no_such_set", "--output=OUT", "--size=8"], "no_such_set"),
        (["--input=IN", "--output=OUT", "--size=8", "extra"], "unexpected argument 'extra'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(tmp_path, capsys, options, message):
    fill(tmp_path, ["0.png", "1.png"])
    (tmp_path / "bad.tar").write_bytes(b"compressed")
    places = [option.replace("IN", str(tmp_path)).replace("OUT", str(tmp_path / "out")) for option in options]
    with pytest.raises(SystemExit) as caught:
        main(["pack", *places])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1


def test_the_command_packs(tmp_path, capsys):
    fill(tmp_path, ["a/0.png", "b/1.png", "b/2.png"])
    main(
        [
            "pack",
            f"--input={tmp_path}",
            f"--output={tmp_path}/out",
            "--size=4,3",
            "--channels=1",
            "--held_out=0",
        ]
    )
    assert "3 images in 1 shards, 0 skipped" in capsys.readouterr().out
    source, _ = read(tmp_path / "out")
    assert source.shape == (4, 3, 1) and source.label_counts.tolist() == [1, 2]
