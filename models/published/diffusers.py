"""diffusers' UNet2DModel, as a folder with config.json and the weights: read and written.

    net, params = load("ddpm-cifar10-32")
    config, tensors = config_of(net), to_state(net, params)

google/ddpm-* and their like; the attention's layers have two spellings, of which the newer is written.
"""

import json
from collections.abc import Mapping

import numpy as np
from etils import epath

from models import safetensors, torch_files
from models.published.layout import Layout, Tensors, to_params, to_tensors
from models.unet import UNet

WEIGHTS = "diffusion_pytorch_model"

# What each convention of models/layers.py is called there.
CONVENTIONS = {
    "ddpm": {"flip_sin_to_cos": False, "freq_shift": 1, "norm_eps": 1e-6, "downsample_padding": 0},
    "adm": {"flip_sin_to_cos": True, "freq_shift": 0, "norm_eps": 1e-5, "downsample_padding": 1},
}
# Settings that a network here has no choice about, with their defaults there.
FIXED = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "add_attention": True,
    "class_embed_type": None,
}
DEFAULTS = {
    "out_channels": 3,
    "layers_per_block": 2,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "norm_eps": 1e-5,
    "dropout": 0.0,
    "norm_num_groups": 32,
    "attention_head_dim": 8,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "resnet_time_scale_shift": "default",
    "attn_norm_num_groups": None,
    "num_class_embeds": None,
}
RESAMPLE = {"conv": "conv", "resnet": "block"}
DOWN = {"DownBlock2D": False, "AttnDownBlock2D": True, "ResnetDownsampleBlock2D": False}


def fields(config: Mapping) -> dict:
    """config.json -> fields of `UNet`. Raises ValueError naming the setting that it cannot express."""
    for key, only in FIXED.items():
        if config.get(key, only) != only:
            raise ValueError(f"config.json: {key}={config[key]!r} cannot be expressed here, only {only!r}")
    config = DEFAULTS | dict(config)
    size, widths = config["sample_size"], config["block_out_channels"]
    attentive = [choose(DOWN, kind, "down_block_types") for kind in config["down_block_types"]]
    if attentive[::-1] != ["Attn" in kind for kind in config["up_block_types"]]:
        raise ValueError("config.json: attention stands at other sizes in up_block_types than in down_block_types")
    scale_shift = choose(
        {"default": False, "scale_shift": True}, config["resnet_time_scale_shift"], "resnet_time_scale_shift"
    )
    if scale_shift and config["attn_norm_num_groups"] != config["norm_num_groups"]:
        raise ValueError(
            "config.json: attn_norm_num_groups must be norm_num_groups: the middle's attention has a norm here"
        )
    resample = choose(RESAMPLE, config["downsample_type"], "downsample_type")
    head = config["attention_head_dim"]
    return {
        "size": size if isinstance(size, int) else size[0],
        "out_channels": config["out_channels"],
        "channels": widths[0],
        "multipliers": tuple(width / widths[0] for width in widths),
        "blocks": config["layers_per_block"],
        "attention": tuple(size >> level for level, there in enumerate(attentive) if there),
        "num_heads": 1,
        "head_channels": head or 0,
        "scale_shift": scale_shift,
        "resample": resample,
        "convention": convention(config),
        "num_labels": config["num_class_embeds"] or 0,
        "dropout": config["dropout"],
        "groups": config["norm_num_groups"],
    }


def choose(table: Mapping, name: str, key: str):
    if name not in table:
        raise ValueError(f"config.json: {key} {name!r} cannot be expressed here, only {', '.join(table)}")
    return table[name]


def convention(config: Mapping) -> str:
    said = {key: config[key] for key in CONVENTIONS["ddpm"]}
    for name, settings in CONVENTIONS.items():
        if said == settings:
            return name
    raise ValueError(f"config.json: {said} is neither of the conventions {CONVENTIONS}")


def config_of(net: UNet) -> dict:
    """`UNet` -> config.json. Raises ValueError for what UNet2DModel has no setting for."""
    widths = [width for _, width in net.levels]
    if widths[0] != net.channels:
        raise ValueError(f"multipliers begin with {net.multipliers[0]}, but UNet2DModel's begin with 1")
    if net.num_heads > 1:
        raise ValueError(f"num_heads={net.num_heads}, but UNet2DModel has head_channels, the same at every level")
    plain = "DownBlock2D" if net.resample == "conv" else "ResnetDownsampleBlock2D"
    kinds = ["AttnDownBlock2D" if size in net.attention else plain for size, _ in net.levels]
    up = {
        "DownBlock2D": "UpBlock2D",
        "AttnDownBlock2D": "AttnUpBlock2D",
        "ResnetDownsampleBlock2D": "ResnetUpsampleBlock2D",
    }
    resample = "conv" if net.resample == "conv" else "resnet"
    return FIXED | CONVENTIONS[net.convention] | {
        "_class_name": "UNet2DModel",
        "sample_size": net.size,
        "out_channels": net.out_channels,
        "block_out_channels": widths,
        "layers_per_block": net.blocks,
        "down_block_types": kinds,
        "up_block_types": [up[kind] for kind in reversed(kinds)],
        "attention_head_dim": net.head_channels or None,
        "resnet_time_scale_shift": "scale_shift" if net.scale_shift else "default",
        "downsample_type": resample,
        "upsample_type": resample,
        "num_class_embeds": net.num_labels or None,
        "dropout": net.dropout,
        "norm_num_groups": net.groups,
        "attn_norm_num_groups": net.groups,
    }  # fmt: skip


def blocks(net: UNet) -> dict[str, str]:
    last, found = len(net.levels) - 1, dict(TOP)
    inner = ".conv" if net.resample == "conv" else ""
    for level, (size, _) in enumerate(net.levels):
        down, up = f"down_blocks.{level}", f"up_blocks.{last - level}"
        for ours, theirs, count in ("down", down, net.blocks), ("up", up, net.blocks + 1):
            for i in range(count):
                found[f"{ours}_{size}_{i}"] = f"{theirs}.resnets.{i}"
                found[f"{ours}_{size}_{i}_attention"] = f"{theirs}.attentions.{i}"
        found[f"down_{size}_resample"] = f"{down}.downsamplers.0{inner}"
        found[f"up_{size}_resample"] = f"{up}.upsamplers.0{inner}"
    return found


TOP = {
    "conv_in": "conv_in",
    "time_1": "time_embedding.linear_1",
    "time_2": "time_embedding.linear_2",
    "label": "class_embedding",
    "mid_0": "mid_block.resnets.0",
    "mid_attention": "mid_block.attentions.0",
    "mid_1": "mid_block.resnets.1",
    "norm_out": "conv_norm_out",
    "conv_out": "conv_out",
}

LAYERS = {
    "norm_1": "norm1",
    "conv_1": "conv1",
    "embedding": "time_emb_proj",
    "norm_2": "norm2",
    "conv_2": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "out": "to_out.0",
}
# Files from before the attention's layers were renamed.
OLD = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

LAYOUT = Layout(blocks, LAYERS)


def to_unet(tensors: Tensors, config: Mapping) -> tuple[UNet, dict]:
    """(network, parameters) of a state dict and its config.json."""
    net = UNet(**fields(config))
    return net, to_params(LAYOUT, net, {renamed(name): x for name, x in tensors.items()})


def renamed(name: str) -> str:
    for old, new in OLD.items():
        name = name.replace(old, new)
    return name


def load(folder) -> tuple[UNet, dict]:
    """(network, parameters) of a UNet2DModel's folder, or of a pipeline's with it in unet/."""
    root = epath.Path(folder)
    root = root / "unet" if (root / "unet").exists() else root
    if not (root / "config.json").exists():
        raise ValueError(f"{root} has no config.json: name a folder that diffusers wrote")
    config = json.loads((root / "config.json").read_text())
    if config.get("_class_name") != "UNet2DModel":
        raise ValueError(f"{root} holds a {config.get('_class_name')}, and only UNet2DModel is read")
    return to_unet(weights(root), config)


def weights(root: epath.Path) -> dict[str, np.ndarray]:
    """The folder's tensors, from safetensors where there are any, else from the .bin, a file of torch's."""
    if (root / f"{WEIGHTS}.safetensors").exists():
        stored = safetensors.tensors(str(root / f"{WEIGHTS}.safetensors"))
        return {name: tensor.read() for name, tensor in stored.items()}
    if (root / f"{WEIGHTS}.bin").exists():
        return torch_files.read(root / f"{WEIGHTS}.bin")
    raise ValueError(f"{root} has neither {WEIGHTS}.safetensors nor {WEIGHTS}.bin: fetch the weights too")


def to_state(net: UNet, params: Mapping) -> dict[str, np.ndarray]:
    """Parameters -> the state dict of UNet2DModel."""
    return to_tensors(LAYOUT, net, params, convolutions=("conv_shortcut",))
