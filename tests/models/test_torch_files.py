"""torch's files: the arrays that torch wrote, in both layouts; and nothing else can happen while one is read."""

import hashlib
import io
import os
import pathlib
import pickle
import struct
import zipfile

import numpy as np
import pytest

from models.torch_files import MAGIC, PROTOCOL, Storage, Tensor, array, read

GOLDEN = pathlib.Path(__file__).parent / "golden"
BASE = np.arange(12, dtype=np.float32).reshape(3, 4) / 8
EXPECTED = {
    "plain": BASE,
    "transposed": BASE.T,
    "slice": BASE[1:, 2],
    "half": BASE.astype(np.float16),
    "bfloat16": BASE.astype("bfloat16"),
    "count": np.int64(7),
    "bytes": np.array([0, 255], np.uint8),
    "flags": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "parameter": BASE[0] * 2,
}


def zipped(pickled, storages=(), **more):
    """A file in the newer layout."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, data in [*((f"data/{key}", data) for key, data in storages), *more.items()]:
            archive.writestr(f"archive/{name}", data)
    return file.getvalue()


def stream(pickled, system=None):
    """A file in the older layout, without storages."""
    heads = [MAGIC, PROTOCOL, system or {"little_endian": True}]
    return b"".join(pickle.dumps(head, 2) for head in heads) + pickled + pickle.dumps([], 2)


def called(name, argument=b"(S'x'\ntR"):
    """A pickle that calls `name`, 'module attribute', while it is read."""
    return b"\x80\x02c" + name.replace(" ", "\n").encode() + b"\n" + argument + b"."


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_arrays_are_what_torch_saved(layout):
    found = read(GOLDEN / f"{layout}.pt")
    assert set(found) == {f"state/{name}" for name in EXPECTED}
    for name, expected in EXPECTED.items():
        assert (found[f"state/{name}"].dtype, found[f"state/{name}"].shape) == (expected.dtype, expected.shape)
        np.testing.assert_array_equal(found[f"state/{name}"], expected)


@pytest.mark.parametrize("layout", [zipped, stream])
@pytest.mark.parametrize("name", ["os system", "builtins eval", "torch.storage _load_from_bytes", "numpy.lib getattr"])
def test_a_file_that_names_anything_else_is_refused_in_one_line_and_runs_nothing(tmp_path, monkeypatch, layout, name):
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("the pickle ran"))
    path = tmp_path / "weights.pt"
    path.write_bytes(layout(called(name)))
    with pytest.raises(ValueError, match=rf"^\S+ is not read: it names {name.replace(' ', '.')}, .*$"):
        read(path)


@pytest.mark.parametrize("name", ["torch._utils _rebuild_tensor_v2", "collections OrderedDict", "torch FloatStorage"])
@pytest.mark.parametrize("state", [{"make": 1}, (None, {"make": 1}), (None, {"__call__": 1, "shape": 1})])
def test_a_pickle_cannot_change_what_it_may_name(tmp_path, name, state):
    build = pickle.dumps(state, 2).removeprefix(b"\x80\x02").removesuffix(b".") + b"b"
    path = tmp_path / "weights.pt"
    path.write_bytes(zipped(called(name, build)))
    with pytest.raises(ValueError, match=r"^\S+ is damaged, or not a file of torch's"):
        read(path)
    test_arrays_are_what_torch_saved("zip")


@pytest.mark.parametrize("layout", ["zip", "stream"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.97])
def test_a_file_cut_off_is_refused_in_one_line(tmp_path, layout, share):
    data = (GOLDEN / f"{layout}.pt").read_bytes()
    path = tmp_path / "weights.pt"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"^\S+ is (damaged|not read).*$"):
        read(path)


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "damaged"),
        (b"<html>not found</html>", "damaged"),
        (pickle.dumps({"w": 1}, 2) * 3, "it is a plain pickle, not torch's"),
        (stream(pickle.dumps({}, 2), {"little_endian": False}), "big-endian"),
        (zipped(pickle.dumps({}, 2), byteorder=b"big"), "big-endian"),
    ],
)
def test_other_files_are_refused_in_one_line(tmp_path, data, reason):
    path = tmp_path / "weights.pt"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=rf"^\S+ .*{reason}.*$"):
        read(path)


def test_a_file_with_another_digest_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(zipped(called("os system")))
    with pytest.raises(ValueError, match=rf"has sha256 [0-9a-f]{{64}}, not {'0' * 64}: .*$"):
        read(path, sha256="0" * 64)
    data = (GOLDEN / "zip.pt").read_bytes()
    assert read(GOLDEN / "zip.pt", sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "offset, shape, strides",
    [(0, (13,), (1,)), (5, (3, 3), (4, 1)), (-1, (2,), (1,)), (0, (2,), (-1,)), (0, (100,), (0,)), (12, (1,), (1,))],
)
def test_a_tensor_cannot_reach_outside_of_its_storage(offset, shape, strides):
    tensor = Tensor(Storage("float32", "0", 12), offset, shape, strides)
    with pytest.raises(ValueError, match="reaches outside"):
        array(tensor, BASE.ravel())


@pytest.mark.parametrize("dtype", ["O", "V8", "float31", 3])
def test_a_storage_of_another_type_is_refused(tmp_path, dtype):
    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", dtype, "0", "cpu", 1) if value == "numbers" else None

    file = io.BytesIO()
    Pickler(file, 2).dump({"w": "numbers"})
    path = tmp_path / "weights.pt"
    path.write_bytes(zipped(file.getvalue(), [("0", b"12345678")]))
    with pytest.raises(ValueError, match=rf"^\S+ is not read: it holds a storage of {dtype!r}.*$"):
        read(path)


def test_a_storage_shorter_than_it_says_is_refused(tmp_path):
    whole = (GOLDEN / "stream.pt").read_bytes()
    path = tmp_path / "weights.pt"
    path.write_bytes(whole[: -struct.calcsize("<f")])
    with pytest.raises(ValueError, match=r"holds \d+ numbers of \d+: it was cut off"):
        read(path)
