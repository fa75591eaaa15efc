"""Small networks of EDM, EDM2 and DiT, in the words of their code, and what they are told."""

import numpy as np

SONG = {
    "img_resolution": 8,
    "in_channels": 3,
    "out_channels": 3,
    "label_dim": 5,
    "augment_dim": 9,
    "model_channels": 32,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
EDM2 = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 5,
    "model_channels": 16,
    "channel_mult": [1, 2],
    "num_blocks": 1,
    "attn_resolutions": [4],
    "channels_per_head": 8,
}
DIT = {
    "input_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "hidden_size": 32,
    "depth": 2,
    "num_heads": 4,
    "num_classes": 5,
    "learn_sigma": True,
}
DITS = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}  # width, depth, heads
AUGMENT = np.random.RandomState(2).uniform(-1, 1, (2, 9)).astype(np.float32)


def fixed(name: str) -> bool:
    """Of a state dict: filters and positions that nothing trains, and that are made here as they are there."""
    return "resample_filter" in name or name == "pos_embed"
