"""The safetensors format: tensors by name, any slice of one without the rest of the file, and a writer.

A file is the header's length (uint64, little-endian), the header (JSON: name -> dtype, shape, data_offsets, counted
from the header's end), and the numbers, row-major and little-endian. A malformed file is a ValueError of one line.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from typing import NamedTuple

import ml_dtypes  # noqa: F401  gives NumPy its bfloat16
import numpy as np

DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
MOST_HEADER = 100_000_000  # bytes, as the format's own readers allow


class Stored(NamedTuple):
    """A tensor in a file."""

    path: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # its first byte

    def read(self, index: tuple[slice, ...] = ()) -> np.ndarray:
        """The tensor, or the part at `index`; only that part is read into memory."""
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)[index]
        mapped = np.memmap(self.path, self.dtype, "r", offset=self.start, shape=self.shape)
        return np.array(mapped[index])


def tensors(path: str) -> dict[str, Stored]:
    """name -> where it lies. ValueError where the header or a tensor does not fit the file."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MOST_HEADER, size - 8):
            raise ValueError(f"{path} is no safetensors file, or was cut off: a header of {length} of {size} bytes")
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return {name: _stored(path, entry, 8 + length, size) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, or no safetensors file ({reason})") from None


def _stored(path, entry, data, size):
    dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, begin, end)):
        raise ValueError(f"shape {shape} at bytes {begin} to {end}")
    if end - begin != math.prod(shape) * dtype.itemsize or data + end > size:
        raise ValueError(f"{dtype} {shape} at bytes {begin} to {end} of {size - data}: it was cut off")
    return Stored(path, dtype.name, shape, data + begin)


class Lazy(NamedTuple):
    """A tensor that is made when it is written."""

    dtype: str
    shape: tuple[int, ...]
    read: Callable[[], np.ndarray]


def write(path: str, found: Mapping[str, np.ndarray | Lazy]) -> None:
    """One tensor at a time; the file takes its name when it is whole."""
    header, end = {}, 0
    for name, tensor in found.items():
        dtype = np.dtype(tensor.dtype)
        begin, end = end, end + math.prod(tensor.shape) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype.name], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8 bytes
    part = f"{path}.part"
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in found.values():
            array = tensor.read() if isinstance(tensor, Lazy) else tensor
            file.write(np.ascontiguousarray(array, tensor.dtype).tobytes())
    os.replace(part, path)
