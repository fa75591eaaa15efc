"""DiT's networks (Peebles and Xie 2023), from its .pt files: DiT-XL-2-256x256.pt and the like."""

import re
from collections.abc import Mapping

import numpy as np

from models import torch_files
from models.dit import DiT, positions
from models.published.layout import Tensors, named, ours, shapes, split_qkv

HEADS = {384: 6, 768: 12, 1024: 16, 1152: 16}  # by width: the tensors do not tell

BLOCK = {
    "modulation": "adaLN_modulation.1",
    "query": "attn.query",
    "key": "attn.key",
    "value": "attn.value",
    "out": "attn.proj",
    "wi": "mlp.fc1",
    "wo": "mlp.fc2",
}
TOP = {
    "patch_in": "x_embedder.proj",
    "time_1": "t_embedder.mlp.0",
    "time_2": "t_embedder.mlp.2",
    "label": "y_embedder.embedding_table",
    "modulation": "final_layer.adaLN_modulation.1",
    "patch_out": "final_layer.linear",
}


def network(tensors: Tensors, heads: int | None) -> DiT:
    """Fields of the network, which the tensors' names and shapes tell but for the heads."""
    if "x_embedder.proj.weight" not in tensors or "pos_embed" not in tensors:
        raise ValueError("these are not the tensors of DiT: expected x_embedder.proj.weight and pos_embed among them")
    width, _, patch, _ = tensors["x_embedder.proj.weight"].shape
    side = round(tensors["pos_embed"].shape[1] ** 0.5)
    if heads is None and width not in HEADS:
        raise ValueError(f"DiT of width {width} is none of the published ones ({', '.join(map(str, HEADS))})")
    return DiT(
        size=side * patch,
        out_channels=len(tensors["final_layer.linear.bias"]) // patch**2,
        channels=width,
        blocks=1 + max(int(m[1]) for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))),
        num_heads=heads or HEADS[width],
        patch=patch,
        num_labels=len(tensors["y_embedder.embedding_table.weight"]),
    )


def to_dit(tensors: Tensors, heads: int | None = None) -> tuple[DiT, dict]:
    """(network, parameters) of a state dict. Raises ValueError for positions that are not those of the network here."""
    tensors = {name: np.asarray(x) for name, x in tensors.items()}
    net = network(tensors, heads)
    side = net.size // net.patch
    if not np.allclose(tensors.pop("pos_embed")[0], positions(side, side, net.channels), atol=1e-5):
        raise ValueError("pos_embed is not the sinusoid that DiT starts with, and the network here computes: not read")
    kernel = tensors["x_embedder.proj.weight"]
    tensors["x_embedder.proj.weight"] = kernel.transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    tensors = split_qkv(tensors, lambda width: net.num_heads, "new")
    paths = shapes(net, channels=kernel.shape[1])
    stacked = {path: shape for path, shape in paths.items() if path[0] == "blocks"}
    blocks = [
        {path: block_leaf(tensors, i, path, shape[1:]) for path, shape in stacked.items()} for i in range(net.blocks)
    ]
    rest = {name: x for name, x in tensors.items() if not name.startswith("blocks.")}
    params = named({path: shape for path, shape in paths.items() if path not in stacked}, rest, their_name)
    params["blocks"] = {}
    for path in stacked:
        params["blocks"].setdefault(path[1], {})[path[2]] = np.stack([block[path] for block in blocks])
    return net, params


def their_name(path: tuple[str, ...]) -> str:
    return f"{TOP[path[0]]}.{'bias' if path[-1] == 'bias' else 'weight'}"


def block_leaf(tensors: Tensors, i: int, path: tuple[str, ...], shape: tuple[int, ...]) -> np.ndarray:
    name = f"blocks.{i}.{BLOCK[path[1]]}.{'bias' if path[-1] == 'bias' else 'weight'}"
    if name not in tensors:
        raise ValueError(f"the file lacks {name}")
    return ours(tensors[name], shape, path[-1], name)


def load(path, given: Mapping | None = None) -> tuple[DiT, dict]:
    """(network, parameters) of a .pt file."""
    return to_dit(torch_files.read(path))
