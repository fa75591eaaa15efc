"""guided-diffusion's networks (Dhariwal and Nichol 2021): 64 to 512 pixels, LSUN, and the two upsamplers.

    net, params = load("64x64_diffusion.pt")

A .pt file there holds tensors alone, so what it is follows from its name, or from the settings of its command line.
"""

from collections.abc import Mapping

import numpy as np

from models import torch_files
from models.published.layout import Layout, Tensors, heads_of, split_qkv, to_params
from models.unet import UNet

DEEP = (1, 1, 2, 2, 4, 4)
MULTIPLIERS = {512: (0.5, *DEEP), 256: DEEP, 128: (1, 1, 2, 3, 4), 64: (1, 2, 3, 4)}
LABELS = 1000

# The settings of `model_and_diffusion_defaults` there, of those that shape a network.
DEFAULTS = {
    "image_size": 64,
    "num_channels": 128,
    "num_res_blocks": 2,
    "num_heads": 4,
    "num_head_channels": -1,
    "attention_resolutions": "16,8",
    "channel_mult": "",
    "class_cond": False,
    "use_scale_shift_norm": True,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "learn_sigma": False,
    "dropout": 0.0,
    "small_size": 0,  # of an upsampler's input; 0: no upsampler
}

ADM = {"num_channels": 256, "attention_resolutions": "32,16,8", "resblock_updown": True, "learn_sigma": True}
CLASSES = ADM | {"class_cond": True}
LSUN = ADM | {"image_size": 256, "num_head_channels": 64, "dropout": 0.1}
UPSAMPLER = CLASSES | {"num_channels": 192}

# The published files, by name (the README of openai/guided-diffusion).
FILES: dict[str, dict] = {
    "64x64_diffusion": CLASSES
    | {
        "num_channels": 192,
        "num_res_blocks": 3,
        "num_head_channels": 64,
        "use_new_attention_order": True,
        "dropout": 0.1,
    },
    "128x128_diffusion": CLASSES | {"image_size": 128},
    "256x256_diffusion": CLASSES | {"image_size": 256, "num_head_channels": 64},
    "256x256_diffusion_uncond": ADM | {"image_size": 256, "num_head_channels": 64},
    "512x512_diffusion": CLASSES | {"image_size": 512, "num_head_channels": 64},
    "64_256_upsampler": UPSAMPLER | {"image_size": 256, "small_size": 64},
    "128_512_upsampler": UPSAMPLER
    | {"image_size": 512, "small_size": 128, "num_head_channels": 64, "attention_resolutions": "32,16"},
    "lsun_bedroom": LSUN,
    "lsun_cat": LSUN,
    "lsun_horse": LSUN,
    "lsun_horse_nodropout": LSUN | {"dropout": 0.0},
}


def settings(text: str) -> dict:
    """'--image_size 64 --class_cond True ...', the MODEL_FLAGS of a command there, over its defaults.

    Settings that shape no network (schedule, precision) are left alone. Raises ValueError where words do not pair up.
    """
    words = text.replace("=", " ").split()
    names, values = words[::2], words[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError(f"settings {text!r} are not of the form --name value --name value")
    given = {name.removeprefix("--"): value for name, value in zip(names, values)}
    given = {"large_size": given.get("image_size", ""), **given}
    given["image_size"] = given["large_size"] or given.get("image_size", str(DEFAULTS["image_size"]))
    return DEFAULTS | {name: parsed(name, given[name]) for name in DEFAULTS if name in given}


def parsed(name: str, text: str):
    kind = type(DEFAULTS[name])
    try:
        return text == "True" if kind is bool else kind(text)
    except ValueError:
        raise ValueError(f"setting --{name} {text} must be of the kind of {DEFAULTS[name]!r}") from None


def fields(given: Mapping) -> dict:
    """Settings there -> fields of `UNet`."""
    given = DEFAULTS | given
    size, per_head = given["image_size"], given["num_head_channels"]
    multipliers = tuple(float(m) for m in given["channel_mult"].split(",") if m) or MULTIPLIERS.get(size)
    if multipliers is None:
        raise ValueError(f"image_size {size} has no multipliers of its own there: give --channel_mult, as 1,2,3,4")
    return {
        "size": size,
        "out_channels": 6 if given["learn_sigma"] else 3,
        "channels": given["num_channels"],
        "multipliers": multipliers,
        "blocks": given["num_res_blocks"],
        "attention": tuple(int(side) for side in given["attention_resolutions"].split(",")),
        "num_heads": 1 if per_head > 0 else given["num_heads"],
        "head_channels": max(per_head, 0),
        "scale_shift": given["use_scale_shift_norm"],
        "resample": "block" if given["resblock_updown"] else "conv",
        "convention": "adm",
        "num_labels": LABELS if given["class_cond"] else 0,
        "dropout": given["dropout"],
    }


def blocks(net: UNet) -> dict[str, str]:
    """Blocks are numbered there in the order of the computation, each with its attention and resampling in it."""
    last, found = len(net.levels) - 1, dict(TOP)
    n, m = 1, 0
    inner = "" if net.resample == "block" else ".op"
    for level, (size, _) in enumerate(net.levels):
        for i in range(net.blocks):
            found |= {f"down_{size}_{i}": f"input_blocks.{n}.0", f"down_{size}_{i}_attention": f"input_blocks.{n}.1"}
            n += 1
        if level < last:
            found[f"down_{size}_resample"] = f"input_blocks.{n}.0{inner}"
            n += 1
    inner = "" if net.resample == "block" else ".conv"
    for size, _ in reversed(net.levels):
        for i in range(net.blocks + 1):
            found |= {f"up_{size}_{i}": f"output_blocks.{m}.0", f"up_{size}_{i}_attention": f"output_blocks.{m}.1"}
            m += 1
        found[f"up_{size}_resample"] = f"output_blocks.{m - 1}.{1 + (size in net.attention)}{inner}"
    return found


TOP = {
    "conv_in": "input_blocks.0.0",
    "time_1": "time_embed.0",
    "time_2": "time_embed.2",
    "label": "label_emb",
    "mid_0": "middle_block.0",
    "mid_attention": "middle_block.1",
    "mid_1": "middle_block.2",
    "norm_out": "out.0",
    "conv_out": "out.2",
}

LAYERS = {
    "norm_1": "in_layers.0",
    "conv_1": "in_layers.2",
    "embedding": "emb_layers.1",
    "norm_2": "out_layers.0",
    "conv_2": "out_layers.3",  # out_layers.2 is the dropout
    "shortcut": "skip_connection",
    "norm": "norm",
    "query": "query",
    "key": "key",
    "value": "value",
    "out": "proj_out",
}

LAYOUT = Layout(blocks, LAYERS)


def to_unet(tensors: Tensors, given: Mapping) -> tuple[UNet, dict]:
    """(network, parameters) of a state dict. Raises ValueError where settings and tensors do not fit each other."""
    given = DEFAULTS | given
    net = UNet(**fields(given))
    order = "new" if given["use_new_attention_order"] else "legacy"
    tensors = split_qkv(tensors, heads_of(net), order)
    upsampler = bool(given["small_size"])
    params = to_params(LAYOUT, net, tensors, low_res=upsampler)
    return net, params | untold(net) if upsampler else params


def untold(net: UNet) -> dict:
    """Layers for the augmentation level that super-resolution is told here: zeros, since none was known there."""
    width = 4 * net.channels
    layer = {"bias": np.zeros(width, np.float32)}
    sides = {"aug_1": net.channels, "aug_2": width}
    return {name: layer | {"kernel": np.zeros((side, width), np.float32)} for name, side in sides.items()}


def load(path, given: Mapping | None = None) -> tuple[UNet, dict]:
    """(network, parameters) of a .pt file; without settings those of FILES for its name."""
    given = known(path) if given is None else given
    return to_unet(torch_files.read(path), given)


def known(path) -> dict:
    """The settings of a published file. Raises ValueError for another name."""
    name = str(path).rpartition("/")[2].removesuffix(".pt")
    if name not in FILES:
        raise ValueError(f"{name} is none of the published files ({', '.join(FILES)}): give its settings, --settings")
    return FILES[name]
