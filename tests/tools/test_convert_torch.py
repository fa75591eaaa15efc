"""Converted files hold what torch saved, whole or in shards; a killed conversion goes on; refusals are one line."""

import json
import pathlib
import pickle
import shutil

import ml_dtypes
import numpy as np
import pytest

from models import hf_weights, safetensors, torch_files
from tools.convert_torch import convert, main

GOLDEN = pathlib.Path(__file__).parents[1] / "models" / "golden"
SAVED = torch_files.read(GOLDEN / "zip.pt")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(GOLDEN / "zip.pt", folder / "pytorch_model.bin")
    (folder / "config.json").write_text("{}")
    (folder / "spiece.model").write_bytes(b"pieces")
    return folder


def check(found, saved):
    assert set(found) == set(saved)
    for name, array in saved.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].read(), array)


def test_all_tensors_in_place(folder):
    convert(str(folder), str(folder))
    check(hf_weights.tensors(folder), SAVED)


def test_some_tensors_of_another_type_elsewhere(folder, tmp_path):
    convert(str(folder), str(tmp_path / "out"), keep="plain|half|count", dtype="bfloat16")
    found = hf_weights.tensors(tmp_path / "out")
    assert set(found) == {"state/plain", "state/half", "state/count"}
    assert found["state/count"].dtype == "int64"
    np.testing.assert_array_equal(found["state/plain"].read(), SAVED["state/plain"].astype(ml_dtypes.bfloat16))
    assert (tmp_path / "out" / "spiece.model").read_bytes() == b"pieces"
    assert hf_weights.read_config(tmp_path / "out") == {}


def test_shards_and_a_conversion_that_was_cut_short(folder, tmp_path):
    (folder / "pytorch_model.bin").rename(folder / "pytorch_model-00001-of-00002.bin")
    other = {f"x.{i}": np.full(3, i, np.float32) for i in range(3)}
    shutil.copy(GOLDEN / "stream.pt", folder / "pytorch_model-00002-of-00002.bin")
    files = {"state/plain": "pytorch_model-00001-of-00002.bin", "state/half": "pytorch_model-00002-of-00002.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": files}))
    first = tmp_path / "out" / "model-00001-of-00002.safetensors"
    convert(str(folder), str(tmp_path / "out"))
    written = first.stat().st_mtime_ns
    (tmp_path / "out" / "model-00002-of-00002.safetensors").unlink()
    (tmp_path / "out" / "model-00002-of-00002.safetensors.part").write_bytes(b"half of it")
    (tmp_path / "out" / "model.safetensors.index.json").unlink()
    convert(str(folder), str(tmp_path / "out"))
    assert first.stat().st_mtime_ns == written
    check(hf_weights.tensors(tmp_path / "out"), SAVED)
    assert not list((tmp_path / "out").glob("*.part"))
    safetensors.write(str(first), other)
    with pytest.raises(ValueError, match="model-00001-of-00002.safetensors is there already, with other tensors"):
        convert(str(folder), str(tmp_path / "out"))


@pytest.mark.parametrize(
    "options, message",
    [
        (["--keep=nothing_like_it"], "--keep='nothing_like_it' matches no tensor"),
        (["--keep=("], "unterminated"),
        (["--sha256=" + "0" * 64], "not 0000"),
        (["--dtype=float16"], "dtype"),
        (["word"], "unexpected argument 'word'"),
    ],
)
def test_mistakes_are_one_line_and_status_2(folder, capsys, options, message):
    with pytest.raises(SystemExit) as caught:
        main(["convert_torch", f"--input={folder}", *options])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1
    assert not list(folder.glob("*.safetensors"))


def test_a_file_that_runs_something_is_refused(folder, capsys):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(print, 2))
    with pytest.raises(SystemExit):
        main(["convert_torch", f"--input={folder}"])
    assert "is not read: it names" in capsys.readouterr().err
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="holds neither pytorch_model.bin nor"):
        convert(str(folder), str(folder))


def test_the_command_converts(folder, capsys):
    main(["convert_torch", f"--input={folder}"])
    assert "GB of weights" in capsys.readouterr().out
    check(safetensors.tensors(str(folder / "model.safetensors")), SAVED)
