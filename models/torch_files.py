"""torch's .pt and .pth files as NumPy arrays, without torch and without running what is in them.

    weights = read("weights.pth", sha256="6726825d...")     # {"conv.weight": array, ...}

Such a file is a pickle, which may have any function called while it is read. Here the names in KNOWN
are all that it can reach, tensors are built from plain bytes, and a file with any other name in it is
refused. Both layouts are read: the zip of torch 1.6 and later, and the stream before it.
"""

import contextlib
import functools
import hashlib
import math
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  gives NumPy its bfloat16
import numpy as np
from etils import epath

from models.safetensors import Lazy

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # of the older layout


class Refused(ValueError):
    """A file that is not read, and why, in one line."""


class Storage(NamedTuple):
    """A run of numbers in the file, which tensors share."""

    dtype: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view into a storage, as torch writes it: offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Call(NamedTuple):
    """What a pickle may call. A tuple, since a pickle can set attributes on a function or a class."""

    make: Callable

    def __call__(self, *arguments):
        return self.make(*arguments)


DTYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}

KNOWN = DTYPES | {
    "collections.OrderedDict": OrderedDict,
    "torch._utils._rebuild_tensor_v2": Call(lambda *arguments: Tensor(*arguments[:4])),
    "torch._utils._rebuild_parameter": Call(lambda tensor, *_: tensor),
}


class Unpickler(pickle.Unpickler):
    """Reaches KNOWN and nothing else; remembers the storages that it met."""

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" not in KNOWN:
            raise Refused(f"it names {module}.{name}, which is neither a tensor nor a dictionary")
        return KNOWN[f"{module}.{name}"]

    def persistent_load(self, reference: tuple) -> Storage:
        _, dtype, key, _, count, *view = reference
        if any(view) or dtype not in DTYPES.values():
            raise Refused(f"it holds a storage of {dtype!r}, or a view of one, which torch has not written since 0.4")
        return self.storages.setdefault(key, Storage(dtype, key, count))


def read(path: epath.PathLike, sha256: str | None = None) -> dict[str, np.ndarray]:
    """The file's tensors by name; the names of dictionaries within dictionaries are joined by '/'.

    What is not a tensor is left out. Arrays are read-only where they share the file's bytes.
    Raises ValueError for a file with another sha256, one that names anything outside KNOWN, and one
    that is damaged.
    """
    with opened(path, sha256) as tensors:
        return {name: tensor.read() for name, tensor in tensors.items()}


@contextlib.contextmanager
def opened(path: epath.PathLike, sha256: str | None = None) -> Iterator[dict[str, Lazy]]:
    """The same, a tensor at a time: names to what reads one, while the file is open.

    Of the newer layout nothing is kept but the storage that was read last; the older one is read whole.
    """
    with epath.Path(path).open("rb") as file:
        found = sha256 and hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise ValueError(f"{path} has sha256 {found}, not {sha256}: it is another file, or damaged; fetch it again")
        file.seek(0)
        layout = read_zip if file.read(4) == b"PK\x03\x04" else read_stream
        file.seek(0)
        with told(path):
            tree, numbers = layout(file)
            lazy = {name: _lazy(tensor, numbers, path) for name, tensor in named(tree)}
        yield lazy


@contextlib.contextmanager
def told(path: epath.PathLike) -> Iterator[None]:
    """Whatever is wrong with the file, as a ValueError of one line."""
    try:
        yield
    except Refused as error:
        raise ValueError(f"{path} is not read: {error}; use a file with the weights alone") from None
    except Exception as error:  # a damaged pickle raises all sorts
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} is damaged, or not a file of torch's ({reason})") from None


def _lazy(tensor, numbers, path):
    def read():
        with told(path):
            return array(tensor, numbers(tensor.storage))

    return Lazy(tensor.storage.dtype, tensor.shape, read)


def read_zip(file) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """(what was saved, storage -> its numbers) of the layout since torch 1.6."""
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    root = next(name for name in names if name.endswith("/data.pkl")).removesuffix("data.pkl")
    if f"{root}byteorder" in names and archive.read(f"{root}byteorder") != b"little":
        raise Refused("its numbers are big-endian")
    with archive.open(f"{root}data.pkl") as pickled:
        tree = Unpickler(pickled).load()
    return tree, functools.lru_cache(1)(lambda storage: flat(storage, archive.read(f"{root}data/{storage.key}")))


def read_stream(file) -> tuple[Any, Callable[[Storage], np.ndarray]]:
    """The same of the layout before: five pickles, then each storage's count and bytes."""
    magic, protocol, system = (Unpickler(file).load() for _ in range(3))
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise Refused("it is a plain pickle, not torch's")
    if not system["little_endian"]:
        raise Refused("its numbers are big-endian")
    unpickler = Unpickler(file)
    tree, numbers = unpickler.load(), {}
    for key in Unpickler(file).load():
        storage = unpickler.storages[key]
        file.seek(8, 1)  # its count, which the pickle gave already
        numbers[key] = flat(storage, file.read(storage.count * np.dtype(storage.dtype).itemsize))
    return tree, lambda storage: numbers[storage.key]


def flat(storage: Storage, data: bytes) -> np.ndarray:
    numbers = np.frombuffer(data, storage.dtype)
    if len(numbers) != storage.count:
        raise Refused(f"storage {storage.key} holds {len(numbers)} numbers of {storage.count}: it was cut off")
    return numbers


def named(tree: Mapping, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors in a tree of dictionaries, with their names."""
    for key, value in tree.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from named(value, f"{prefix}{key}/")


def array(tensor: Tensor, numbers: np.ndarray) -> np.ndarray:
    """The tensor as a contiguous array; Refused where it would read outside of its storage."""
    _, offset, shape, strides = tensor
    if 0 in shape:
        return np.empty(shape, numbers.dtype)
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if min((offset, *shape, *strides)) < 0 or max(last, math.prod(shape) - 1) >= len(numbers):
        raise Refused(f"a tensor of shape {shape} reaches outside of its storage")
    steps = [stride * numbers.itemsize for stride in strides]
    return np.asarray(np.lib.stride_tricks.as_strided(numbers[offset:], shape, steps), order="C")
