"""Embed captions once, so that training need not hold the text encoder: input_pipeline/embeddings.py reads them.

    python -m tools.embed_captions --input=SHARDS --output=EMBEDDINGS --encoder="t5(path='T5', length=128)" --estimate
    python -m tools.embed_captions --input=SHARDS --output=EMBEDDINGS --encoder="t5(path='T5', length=128)"

--input is what training will read: shards of tools/pack.py, a folder with captions.jsonl, tfds:NAME, or 'shards/*.tar'
that are packed as well. First it says how large the embeddings will be. Every caption of an image is embedded, as
bfloat16, without padding. The encoder lies split over this process's devices. Killed and started again it goes on after
the last finished shard. --part=0/8 to --part=7/8 are eight jobs that share the shards; the last one writes the index.
"""

import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from jax.sharding import NamedSharding

from calls import named
from input_pipeline import embeddings
from input_pipeline.captions import check_share
from input_pipeline.source import MAX_BAD_SHARE, WORKERS
from models.text import TEXT_ENCODERS, TextEncoder
from models.tokenizers import Tokens
from tools import command, pack_inputs
from tools.shards import check_settings, local_folder, read_notes, shard_paths, write_json, write_shard
from training import sharding

SHARD_BYTES = 2**28  # about, where --shards is not given
AT_ONCE = 512  # examples whose embeddings are in memory while a shard is written
SAMPLED = 1000  # examples from which the size is estimated


def define(add: dict) -> None:
    flags.DEFINE_string("input", None, "Packed shards, a folder, tfds:NAME or a pattern of tars.", required=True, **add)
    flags.DEFINE_string("output", None, "The folder of the embeddings.", required=True, **add)
    flags.DEFINE_string("encoder", None, "As config.text.encoder names it.", required=True, **add)
    flags.DEFINE_string("split", "train", "The split to read, and its name in --output.", **add)
    flags.DEFINE_float("held_out", 0.05, "The 'test' share of a folder without its own split.", **add)
    flags.DEFINE_string("data_dir", None, "Where tfds sets lie; default ~/tensorflow_datasets.", **add)
    flags.DEFINE_integer("batch_size", 64, "Captions a batch, rounded up to the devices.", lower_bound=1, **add)
    flags.DEFINE_integer("shards", 0, "Number of files; 0 for about 256 MB each.", lower_bound=0, **add)
    flags.DEFINE_string("part", "0/1", "I/N: write every Nth shard, from the Ith.", **add)
    flags.DEFINE_bool("estimate", False, "Only say how large it will be.", **add)
    flags.DEFINE_float("max_bad_share", MAX_BAD_SHARE, "More images without a caption are an error.", **add)
    flags.DEFINE_integer("workers", WORKERS, "Reading threads.", **add)


class Captions(NamedTuple):
    """One example's captions as tokens, or why there are none."""

    tokens: Tokens
    reason: str = ""


def reader(items, encoder: TextEncoder) -> Callable[[int], Captions]:
    """index -> Captions."""
    none = Tokens(np.zeros((0, encoder.length), np.int32), np.zeros((0, encoder.length), bool), np.zeros(0, bool))

    def read(index):
        try:
            _, _, captions = items.load(index)
            return Captions(encoder.tokenise(captions)) if captions else Captions(none, "no caption")
        except Exception as error:  # readers raise all sorts
            return Captions(none, f"{type(error).__name__}: {error}")

    return read


class Estimate(NamedTuple):
    """What a sample says of the whole."""

    captions: float
    tokens: float
    size: float  # bytes

    def __str__(self):
        mean = self.tokens / max(self.captions, 1)
        return f"about {self.size / 1e9:.3g} GB: {self.captions:,.0f} captions of {mean:.1f} tokens"


def estimate(items, read: Callable, width: int, max_bad_share: float, pool) -> Estimate:
    """From SAMPLED examples, spread evenly. ValueError where too many of them have no caption."""
    total = len(items.names)
    sample = np.unique(np.linspace(0, total - 1, min(SAMPLED, total)).astype(np.int64))
    found = list(pool.map(read, sample))
    bare = [f"{items.names[i]} ({captions.reason})" for i, captions in zip(sample, found) if captions.reason]
    check_share(bare, len(sample), "of those looked at have no caption", max_bad_share)
    captions = sum(len(one.tokens.mask) for one in found)
    tokens = sum(int(one.tokens.mask.sum()) for one in found)
    size = tokens * width * embeddings.ROW_TYPE.itemsize
    return Estimate(*(number * total / len(sample) for number in (captions, tokens, size)))


def layout(devices) -> tuple[jax.sharding.Mesh, Callable]:
    """(a mesh of these devices, the rule by which parameters are split over all of them)."""
    mesh = sharding.make_mesh({"data": 1, "fsdp": -1, "tensor": 1}, devices)
    return mesh, lambda name, shape: NamedSharding(mesh, sharding.spec_of(mesh, name, shape))


def device_encoder(encoder: TextEncoder, devices) -> Callable:
    """encode(tokens [b l], mask [b l]) -> bfloat16 [b l d] over these devices, b a multiple of them."""
    mesh, rule = layout(devices)
    params, rows = encoder.load(rule), sharding.over_data(mesh)
    run = jax.jit(lambda *inputs: encoder.encode(*inputs).astype(jnp.bfloat16), out_shardings=rows)
    return lambda tokens, mask: run(params, *jax.device_put((tokens, mask), rows))


def padded_length(tokens: int, length: int) -> int:
    """The smallest of 16, 32, 64, ... up to `length` that holds them: a program for each."""
    return next((power for power in (2**k for k in range(4, 31)) if tokens <= power < length), length)


def encode_all(encode: Callable, tokens: Tokens, batch_size: int) -> list[np.ndarray]:
    """The rows [tokens d] of each caption. Captions of like length share a batch."""
    counts, length = tokens.mask.sum(1), tokens.mask.shape[1]
    order = np.argsort(counts, kind="stable")
    pending, found = [], [None] * len(order)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        fits = padded_length(int(counts[rows].max()), length)
        batch = [np.zeros((batch_size, fits), part.dtype) for part in tokens[:2]]
        for whole, part in zip(batch, tokens[:2]):
            whole[: len(rows)] = part[rows, :fits]
        pending.append((rows, encode(*batch)))  # the next is prepared while the devices work
    for rows, text in pending:
        for row, embedded in zip(rows, np.asarray(text)):
            found[row] = embedded[: counts[row]]
    return found


def join(parts: list[Tokens]) -> Tokens:
    return Tokens(*map(np.concatenate, zip(*parts)))


def fill_shard(put, *, items, indices, read, encode, batch_size, pool) -> dict:
    """Put the records of a shard; what is in it, what was cut and what has no caption."""
    notes = {"size": len(indices), "captions": 0, "tokens": 0, "captioned": 0, "cut": 0, "skipped": {}}
    for chunk in np.array_split(indices, max(1, len(indices) // AT_ONCE)):
        found = list(pool.map(read, chunk))
        rows = iter(encode_all(encode, join([captions.tokens for captions in found]), batch_size))
        for index, (tokens, reason) in zip(chunk, found, strict=True):
            put(embeddings.encode([next(rows) for _ in tokens.mask]))
            notes["captions"] += len(tokens.mask)
            notes["tokens"] += int(tokens.mask.sum())
            notes["cut"] += int(tokens.cut.sum())
            notes["captioned"] += not reason
            notes["skipped"] |= {items.names[index]: reason} if reason else {}
    return notes


def summary(items, shards: list[dict], settings: dict, max_bad_share: float) -> dict:
    """SPLIT.json from the shards' notes; ValueError where too many examples have no caption."""
    skipped = {name: why for shard in shards for name, why in shard["skipped"].items()}
    bare = [f"{name} ({why})" for name, why in skipped.items()]
    check_share(bare, len(items.names), "images have no caption", max_bad_share)
    totals = {key: sum(shard[key] for shard in shards) for key in ("size", "captions", "tokens", "captioned", "cut")}
    files = [{key: shard[key] for key in ("file", "size", "bytes")} for shard in shards]
    return settings | totals | {"skipped": skipped, "shards": files}


def part_of(text: str) -> slice:
    """The shards of 'I/N': every Nth from the Ith. ValueError for anything else."""
    first, _, second = text.partition("/")
    if not (first.isdigit() and second.isdigit() and int(first) < int(second)):
        raise ValueError(f"--part={text} must be I/N with I below N, as 0/8 to 7/8")
    return slice(int(first), None, int(second))


def build_encoder(text: str) -> TextEncoder:
    encoder = named(TEXT_ENCODERS, text, "--encoder")
    if encoder.encode is None:
        raise ValueError(f"--encoder={text} is learned with the network: it has nothing to embed yet")
    if encoder.length > embeddings.MOST:
        raise ValueError(f"--encoder={text}: a record holds captions of {embeddings.MOST} tokens at most")
    return encoder


def check_space(output: Path, size: float) -> None:
    """ValueError where the disk does not hold what is still to be made."""
    free = shutil.disk_usage(output).free
    if size > free:
        raise ValueError(f"{output} has {free / 1e9:.3g} GB free, and {size / 1e9:.3g} GB are to be written")


def write_missing(paths, mine: slice, count: int, encoder: TextEncoder, **given) -> None:
    """Those of `mine` among the shards of `count` examples that are not there yet."""
    missing = [i for i in range(len(paths))[mine] if not paths[i].exists()]
    if not missing:
        return
    encode = device_encoder(encoder, jax.local_devices()) if encoder.traced else partial(encoder.encode, None)
    parts = np.array_split(np.arange(count), len(paths))
    for i in missing:
        write_shard(paths[i], partial(fill_shard, indices=parts[i], encode=encode, **given))
        print(f"{paths[i].name}: {len(parts[i])} images", flush=True)


def embed(
    source: str,
    output: str,
    encoder: str,
    *,
    split: str = "train",
    held_out: float = 0.05,
    data_dir: str | None = None,
    batch_size: int = 64,
    shards: int = 0,
    part: str = "0/1",
    estimate_only: bool = False,
    max_bad_share: float = MAX_BAD_SHARE,
    workers: int = WORKERS,
) -> str:
    """Embed the captions of `source` under `output`; what there is to say at the end. ValueError as above."""
    mine, built = part_of(part), build_encoder(encoder)
    items = pack_inputs.open_input(source, split, held_out, data_dir)
    count, read = len(items.names), reader(items, built)
    check_share(items.lost, count, f"captions in {source} have no image", max_bad_share)
    with ThreadPoolExecutor(workers) as pool:
        expected = estimate(items, read, built.width, max_bad_share, pool)
        print(f"{expected} in {output}", flush=True)
        if estimate_only:
            return "nothing written"
        batch_size += -batch_size % jax.local_device_count()
        settings = {"split": split, "source": source, "digest": items.digest}
        settings |= {"encoder": encoder, "width": built.width, "length": built.length}
        output = local_folder(output)
        paths = shard_paths(output, split, shards or max(1, round(expected.size / SHARD_BYTES)))
        check_settings(output, split, settings | {"number": len(paths), "batch_size": batch_size})
        check_space(output, expected.size * sum(not path.exists() for path in paths) / len(paths))
        write_missing(paths, mine, count, built, items=items, read=read, batch_size=batch_size, pool=pool)
    if missing := sum(not path.exists() for path in paths):
        return f"{missing} of {len(paths)} shards are to come from other parts; the index comes with the last"
    index = summary(items, read_notes(paths), settings, max_bad_share)
    write_json(output / f"{split}.json", index)
    cut = f", {index['cut']} of them cut at {built.length} tokens" if index["cut"] else ""
    return f"{index['captions']} captions of {count} images{cut}: {output}"


def act(options: dict) -> str:
    source, output, encoder = (options.pop(key) for key in ("input", "output", "encoder"))
    return embed(source, output, encoder, estimate_only=options.pop("estimate"), **options)


def main(argv: list[str]) -> None:
    command.run(argv, __doc__, define, act)


if __name__ == "__main__":
    main(sys.argv)
