"""Weights of a folder: the numbers that were written, on any mesh, no more read than is held, mistakes named."""

import json
import pathlib
import re

import jax
import ml_dtypes
import numpy as np
import pytest
import small_t5
from flax.traverse_util import flatten_dict
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from models import hf_weights, safetensors, t5

SIZE = t5.Size(16, 24, 4, 8, 3, 40)
WEIGHTS = small_t5.weights(SIZE)
BLOCK = "encoder.block.1.layer.1.DenseReluDense.wo.weight"


def load(folder, shardings=None, **options):
    return hf_weights.load(hf_weights.tensors(folder), t5.PUBLISHED, t5.abstract_params(SIZE), shardings, **options)


def expected(path):
    """The parameter by hand: transposed kernels, blocks stacked."""
    piece = t5.PUBLISHED[path]
    names = [piece.name.format(i) for i in range(3)] if "{}" in piece.name else [piece.name]
    arrays = [WEIGHTS[name].T if piece.transposed else WEIGHTS[name] for name in names]
    return np.stack(arrays) if "{}" in piece.name else arrays[0]


def over_two_axes(name, shape):
    """The last two dimensions over fsdp and tensor, where they divide."""
    mesh = jax.make_mesh((2, 4), ("fsdp", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    if len(shape) == 1 or name.endswith("scale"):
        return NamedSharding(mesh, P())
    return NamedSharding(mesh, P(*[None] * (len(shape) - 2), "fsdp", "tensor"))


@pytest.mark.parametrize("files", [1, 3])
def test_the_same_numbers_on_one_device_and_on_a_mesh(tmp_path, files):
    folder = small_t5.write_folder(tmp_path, SIZE, WEIGHTS, files)
    for shardings in (None, over_two_axes):
        params = flatten_dict(load(folder, shardings), sep="/")
        assert set(params) == set(t5.PUBLISHED)
        for path, array in params.items():
            np.testing.assert_array_equal(array, expected(path))
            assert shardings is None or array.sharding == over_two_axes(path, array.shape)
            assert shardings or not array.committed  # a program on a mesh takes them as well


def test_no_more_is_read_than_the_devices_hold(tmp_path, monkeypatch):
    folder, read = small_t5.write_folder(tmp_path, SIZE, WEIGHTS), []
    whole = safetensors.Stored.read

    def noted(stored, index=()):
        part = whole(stored, index)
        read.append((part.size, np.prod(stored.shape)))
        return part

    monkeypatch.setattr(safetensors.Stored, "read", noted)
    kernels = load(folder, over_two_axes)["blocks"]["wo"]["kernel"]
    assert kernels.addressable_shards[0].data.shape == (3, 12, 4)
    assert all(part * 8 == size for part, size in read if size > 200)  # an eighth at a time; norms are whole
    assert sum(part for part, size in read if size > 200) == sum(size for _, size in read if size > 200) / 8


def test_loading_casts(tmp_path):
    folder = small_t5.write_folder(tmp_path, SIZE, WEIGHTS)
    kernel = load(folder, dtype=ml_dtypes.bfloat16)["blocks"]["query"]["kernel"]
    assert kernel.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(kernel, expected("blocks/query/kernel").astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda found: found.pop(BLOCK), f"the weights lack {BLOCK} (1): they are of another model or size"),
        (lambda found: found.update(extra=found[BLOCK]), "the weights have a surplus extra (1):"),
        (lambda found: found.update({BLOCK: found[BLOCK].T}), f"have another shape {BLOCK} is (24, 16), not (16, 24)"),
        (
            lambda found: found.update({"encoder.block.3.layer.0.layer_norm.weight": np.ones(16, np.float32)}),
            "have a surplus encoder.block.3.layer.0.layer_norm.weight (1)",
        ),
    ],
)
def test_missing_surplus_and_misshapen_tensors_are_named(tmp_path, change, message):
    found = dict(WEIGHTS)
    change(found)
    folder = small_t5.write_folder(tmp_path, SIZE, found)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_tensor_missing_from_the_file_that_the_index_names(tmp_path):
    folder = pathlib.Path(small_t5.write_folder(tmp_path, SIZE, WEIGHTS, files=2))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    index["weight_map"] |= {"lost": "model-00001-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="lost is not in model-00001-of-00002.safetensors"):
        hf_weights.tensors(folder)
    index["weight_map"] |= {"lost": "../model.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="is missing, and the index names it"):
        hf_weights.tensors(folder)


def test_folders_without_weights_say_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="holds no model.safetensors, .*; give the folder with the weights"):
        hf_weights.tensors(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="run python -m tools.convert_torch --input="):
        hf_weights.tensors(tmp_path)
    with pytest.raises(ValueError, match="config.json is missing; give a Hugging Face folder"):
        hf_weights.read_config(tmp_path)


ARRAYS = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1.5, -2], ml_dtypes.bfloat16),
    "empty": np.zeros((0, 3), np.float16),
    "number": np.array(7, np.int64),
    "flags": np.array([True, False, True]),
    "c": np.arange(24, dtype=np.int32).reshape(2, 3, 4)[:, ::-1],
}


def test_a_file_holds_what_was_written(tmp_path):
    path = str(tmp_path / "x.safetensors")
    safetensors.write(path, ARRAYS)
    found = safetensors.tensors(path)
    assert list(found) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name].read(), array)
    np.testing.assert_array_equal(found["c"].read((slice(1, 2), slice(None), slice(1, 3))), ARRAYS["c"][1:2, :, 1:3])


def test_the_layout_is_the_published_one(tmp_path):
    header = b'{"__metadata__":{"format":"pt"},"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    numbers = np.array([1.25, -3], "<f4")
    (tmp_path / "x").write_bytes(len(header).to_bytes(8, "little") + header + numbers.tobytes())
    found = safetensors.tensors(str(tmp_path / "x"))
    assert list(found) == ["w"]
    np.testing.assert_array_equal(found["w"].read(), numbers)


def entry(**change):
    fields = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | change
    return json.dumps({"w": {key: value for key, value in fields.items() if value is not None}}).encode()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"w": 3}',
        entry(dtype="F8"),
        entry(dtype=None),
        entry(shape=[3]),
        entry(shape=[-2]),
        entry(shape=[2.0]),
        entry(shape="ab"),
        entry(data_offsets=[4, 12]),
        entry(data_offsets=[-8, 0]),
        entry(data_offsets=[0]),
        entry(shape=[2**40], data_offsets=[0, 2**42]),
    ],
)
def test_a_malformed_file_is_refused_in_one_line(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(ValueError, match=r"^\S+x.safetensors is (damaged|no safetensors)[^\n]*$"):
        safetensors.tensors(str(path))


@pytest.mark.parametrize("content", [b"", b"1234567", (2**63).to_bytes(8, "little") + b"{}", b"<html>not found</html>"])
def test_other_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^\S+ is no safetensors file[^\n]*$"):
        safetensors.tensors(str(path))
