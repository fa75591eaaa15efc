"""EDM2's networks (Karras et al. 2024). A .pkl file there carries code and is not read: docs/import.md."""

import re
from collections.abc import Mapping

import numpy as np

from models import torch_files
from models.edm2_unet import EDM2UNet
from models.published.layout import Tensors, named, shapes, split_qkv

HEAD_CHANNELS = 64
UNUSED = re.compile(r"^logvar_")  # of the loss alone

LAYERS = {
    "conv_1": "conv_res0",
    "conv_2": "conv_res1",
    "embedding": "emb_linear",
    "shortcut": "conv_skip",
    "query": "attn_query",
    "key": "attn_key",
    "value": "attn_value",
    "out": "attn_proj",
}
TOP = {
    "frequency": "emb_fourier.freqs",
    "phase": "emb_fourier.phases",
    "gain_out": "out_gain",
    "time": "emb_noise.weight",
    "label": "emb_label.weight",
    "conv_out": "out_conv.weight",
}


def network(tensors: Tensors, head_channels: int) -> EDM2UNet:
    """Fields of the network, which the tensors' names and shapes tell but for the heads."""
    stem = [match for name in tensors if (match := re.fullmatch(r"enc\.(\d+)x\1_conv\.weight", name))]
    if len(stem) != 1 or "out_gain" not in tensors:
        raise ValueError("these are not the tensors of EDM2's network: expected out_gain and enc.*_conv among them")
    blocks = {
        tuple(map(int, m.groups())) for name in tensors if (m := re.match(r"enc\.(\d+)x\1_block(\d+)\.conv_res0", name))
    }
    sides = sorted({side for side, _ in blocks}, reverse=True)
    widths = [len(tensors[f"enc.{side}x{side}_block0.conv_res0.weight"]) for side in sides]
    return EDM2UNet(
        size=int(stem[0][1]),
        out_channels=len(tensors["out_conv.weight"]),
        channels=widths[0],
        multipliers=tuple(width / widths[0] for width in widths),
        blocks=1 + max(i for _, i in blocks),
        attention=tuple(side for side in sides if f"enc.{side}x{side}_block0.attn_qkv.weight" in tensors),
        head_channels=head_channels,
        num_labels=tensors["emb_label.weight"].shape[1] if "emb_label.weight" in tensors else 0,
    )


def their_name(net: EDM2UNet, path: tuple[str, ...]) -> str:
    """('down_32_0', 'conv_1', 'kernel') -> 'enc.32x32_block0.conv_res0.weight'."""
    if path[0] in TOP:
        return TOP[path[0]]
    if path[0] == "conv_in":
        return f"enc.{net.size}x{net.size}_conv.weight"
    half, *place = path[0].split("_")
    if half == "mid":
        side = net.levels[-1][0]
        block = f"dec.{side}x{side}_in{place[0]}"
    elif place[1] == "resample":
        side, what = (int(place[0]) // 2, "down") if half == "down" else (2 * int(place[0]), "up")
        block = f"{'enc' if half == 'down' else 'dec'}.{side}x{side}_{what}"
    else:
        block = f"{'enc' if half == 'down' else 'dec'}.{place[0]}x{place[0]}_block{place[1]}"
    return f"{block}.emb_gain" if path[1] == "gain" else f"{block}.{LAYERS[path[1]]}.weight"


def to_unet(tensors: Tensors, head_channels: int = HEAD_CHANNELS) -> tuple[EDM2UNet, dict]:
    """(network, parameters) of a state dict of Precond or of the network in it."""
    tensors = {name.removeprefix("unet."): np.asarray(x) for name, x in tensors.items() if not UNUSED.match(name)}
    net = network(tensors, head_channels)
    split = split_qkv(
        {name.replace("attn_qkv", "attn_.qkv"): x for name, x in tensors.items()}, lambda c: c // head_channels, "edm"
    )
    split = {name.replace("attn_.", "attn_"): x for name, x in split.items()}
    return net, named(shapes(net, channels=net.out_channels), split, lambda path: their_name(net, path))


def load(path, given: Mapping | None = None) -> tuple[EDM2UNet, dict]:
    """(network, parameters) of a file of plain tensors, written as docs/import.md says."""
    return to_unet(torch_files.read(path))
