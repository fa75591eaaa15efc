"""EDM's ADM-like network, DhariwalUNet (Karras et al. 2022), which `UNet` is too. SongUNet is another architecture.

A .pkl file there carries code and is not read; docs/import.md says how its tensors are got out of it.
"""

import re
from collections.abc import Mapping

import numpy as np

from models import torch_files
from models.published.layout import Layout, Tensors, heads_of, split_qkv, to_params
from models.unet import UNet

HEAD_CHANNELS = 64
UNUSED = re.compile(r"resample_filter$|^map_augment\.")  # fixed filters; augmentation is off when sampling


def fields(tensors: Tensors) -> dict:
    """Fields of `UNet`, which the tensors' names and shapes tell. Raises ValueError for another architecture."""
    if "map_layer0.weight" not in tensors or any(".aux_" in name or ".norm2.freqs" in name for name in tensors):
        raise ValueError("these are not the tensors of EDM's network: expected map_layer0.weight among them")
    stem = [match for name in tensors if (match := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name))]
    if len(stem) != 1 or "out_conv.weight" not in tensors:
        raise ValueError(
            "these are the tensors of EDM's SongUNet, which models/unet.py is not: only DhariwalUNet is read"
        )
    size, channels = int(stem[0][1]), tensors["map_layer0.weight"].shape[1]
    blocks = {
        tuple(map(int, m.groups())) for name in tensors if (m := re.match(r"enc\.(\d+)x\1_block(\d+)\.conv0", name))
    }
    sides = sorted({side for side, _ in blocks}, reverse=True)
    width = {side: len(tensors[f"enc.{side}x{side}_block0.conv0.bias"]) for side in sides}
    if min(width.values()) < 128:
        raise ValueError(
            f"levels of {min(width.values())} channels have fewer than 32 groups there: 128 and more are read"
        )
    return {
        "size": size,
        "out_channels": len(tensors["out_conv.bias"]),
        "channels": channels,
        "multipliers": tuple(width[side] / channels for side in sides),
        "blocks": 1 + max(i for _, i in blocks),
        "attention": tuple(side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in tensors),
        "head_channels": HEAD_CHANNELS,
        "scale_shift": True,
        "resample": "block",
        "convention": "adm",
        "num_labels": tensors["map_label.weight"].shape[1] if "map_label.weight" in tensors else 0,
    }


def blocks(net: UNet) -> dict[str, str]:
    """Attention lies within its block there; a resampling block is called by the side that comes out of it."""
    found = dict(TOP) | {"conv_in": f"enc.{net.size}x{net.size}_conv"}
    for size, _ in net.levels:
        side = f"{size}x{size}"
        found |= {f"down_{size}_resample": f"enc.{size // 2}x{size // 2}_down"}
        found |= {f"up_{size}_resample": f"dec.{2 * size}x{2 * size}_up"}
        for half, ours, count in ("enc", "down", net.blocks), ("dec", "up", net.blocks + 1):
            for i in range(count):
                found |= dict.fromkeys(
                    (f"{ours}_{size}_{i}", f"{ours}_{size}_{i}_attention"), f"{half}.{side}_block{i}"
                )
    return found | {"mid_0": f"dec.{side}_in0", "mid_attention": f"dec.{side}_in0", "mid_1": f"dec.{side}_in1"}


TOP = {
    "time_1": "map_layer0",
    "time_2": "map_layer1",
    "label": "map_label",
    "norm_out": "out_norm",
    "conv_out": "out_conv",
}

LAYERS = {
    "norm_1": "norm0",
    "conv_1": "conv0",
    "embedding": "affine",
    "norm_2": "norm1",
    "conv_2": "conv1",
    "shortcut": "skip",
    "norm": "norm2",
    "query": "query",
    "key": "key",
    "value": "value",
    "out": "proj",
}

LAYOUT = Layout(blocks, LAYERS)


def to_unet(tensors: Tensors) -> tuple[UNet, dict]:
    """(network, parameters) of a state dict of EDMPrecond or of the network in it."""
    tensors = {name.removeprefix("model."): np.asarray(x) for name, x in tensors.items()}
    net = UNet(**fields(tensors))
    kept = {name: x for name, x in tensors.items() if not UNUSED.search(name)}
    if net.num_labels:
        kept["map_label.weight"] = kept["map_label.weight"].T  # a linear layer on one-hot labels: rows
    return net, to_params(LAYOUT, net, split_qkv(kept, heads_of(net), "edm"))


def load(path, given: Mapping | None = None) -> tuple[UNet, dict]:
    """(network, parameters) of a file of plain tensors, written as docs/import.md says."""
    return to_unet(torch_files.read(path))
