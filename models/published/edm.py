"""EDM's networks (Karras et al. 2022): DhariwalUNet, which `UNet` is too, and SongUNet in its DDPM++ form.

A .pkl file there carries code and is not read; docs/import.md says how its tensors are got out of it.
"""

import re
from collections.abc import Mapping

import numpy as np

from models import torch_files
from models.published.layout import Layout, Tensors, heads_of, split_qkv, to_params
from models.song_unet import SongUNet
from models.unet import UNet

HEAD_CHANNELS = 64
FILTERS = re.compile(r"resample_filter$")  # fixed
AUGMENTATION = re.compile(r"^map_augment\.")  # of DhariwalUNet, which was published without any


def levels(tensors: Tensors) -> dict:
    """The fields that both networks have, which the tensors' names and shapes tell."""
    stem = [match for name in tensors if (match := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name))]
    blocks = {
        tuple(map(int, m.groups())) for name in tensors if (m := re.match(r"enc\.(\d+)x\1_block(\d+)\.conv0", name))
    }
    if len(stem) != 1 or not blocks or "map_layer0.weight" not in tensors:
        raise ValueError("these are not the tensors of EDM's network: expected map_layer0, enc.*_conv and enc.*_block0")
    size, channels = int(stem[0][1]), tensors["map_layer0.weight"].shape[1]
    sides = sorted({side for side, _ in blocks}, reverse=True)
    width = {side: len(tensors[f"enc.{side}x{side}_block0.conv0.bias"]) for side in sides}
    return {
        "size": size,
        "channels": channels,
        "multipliers": tuple(width[side] / channels for side in sides),
        "blocks": 1 + max(i for _, i in blocks),
        "attention": tuple(side for side in sides if f"enc.{side}x{side}_block0.qkv.weight" in tensors),
        "num_labels": tensors["map_label.weight"].shape[1] if "map_label.weight" in tensors else 0,
    }


def song(tensors: Tensors) -> SongUNet:
    """Raises ValueError for NCSN++."""
    if any("aux_residual" in name or name == "map_noise.freqs" for name in tensors):
        raise ValueError("these are the tensors of EDM's NCSN++, and SongUNet is read in its DDPM++ form alone")
    found = levels(tensors)
    out = tensors[f"dec.{found['size']}x{found['size']}_aux_conv.bias"]
    return SongUNet(out_channels=len(out), **found)


def dhariwal(tensors: Tensors) -> UNet:
    found = levels(tensors)
    narrow = min(found["multipliers"]) * found["channels"]
    if narrow < 128:
        raise ValueError(f"levels of {narrow:g} channels have fewer than 32 groups there: 128 and more are read")
    return UNet(
        out_channels=len(tensors["out_conv.bias"]),
        head_channels=HEAD_CHANNELS,
        scale_shift=True,
        resample="block",
        convention="adm",
        **found,
    )


def blocks(net: UNet | SongUNet) -> dict[str, str]:
    """Attention lies within its block there; a resampling block is called by the side that comes out of it."""
    found = dict(TOP) | {"conv_in": f"enc.{net.size}x{net.size}_conv"}
    if isinstance(net, SongUNet):
        last = f"dec.{net.size}x{net.size}_aux"
        found |= {"norm_out": f"{last}_norm", "conv_out": f"{last}_conv", "augment": "map_augment"}
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


def to_unet(tensors: Tensors) -> tuple[UNet | SongUNet, dict]:
    """(network, parameters) of a state dict of EDMPrecond or of the network in it."""
    tensors = {name.removeprefix("model."): np.asarray(x) for name, x in tensors.items() if not FILTERS.search(name)}
    if any(name.endswith("_aux_conv.weight") for name in tensors):
        net, told = song(tensors), {}
        if "map_augment.weight" in tensors:
            told["augment"] = tensors["map_augment.weight"].shape[1]
        return net, to_params(LAYOUT, net, split_qkv(tensors, lambda channels: 1, "edm"), **told)
    net = dhariwal(tensors)
    kept = {name: x for name, x in tensors.items() if not AUGMENTATION.search(name)}
    if net.num_labels:
        kept["map_label.weight"] = kept["map_label.weight"].T  # a linear layer on one-hot labels: rows
    return net, to_params(LAYOUT, net, split_qkv(kept, heads_of(net), "edm"))


def load(path, given: Mapping | None = None) -> tuple[UNet | SongUNet, dict]:
    """(network, parameters) of a file of plain tensors, written as docs/import.md says."""
    return to_unet(torch_files.read(path))
