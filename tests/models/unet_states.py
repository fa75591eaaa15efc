"""Small networks in other projects' settings, their random weights and inputs: NumPy alone, the same everywhere."""

import zlib

import numpy as np

DDPM = {
    "sample_size": 8,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}
DIFFUSERS = {
    "ddpm": DDPM,
    "adm": {
        "sample_size": 8,
        "out_channels": 6,
        "block_out_channels": [32, 64],
        "layers_per_block": 2,
        "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "ResnetUpsampleBlock2D"],
        "attention_head_dim": 16,
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,
        "num_class_embeds": 5,
    },
}

NEW = {
    "image_size": 8,
    "num_channels": 32,
    "num_res_blocks": 1,
    "channel_mult": "1,2",
    "attention_resolutions": "4",
    "class_cond": True,
    "resblock_updown": True,
    "learn_sigma": True,
    "num_head_channels": 16,
    "use_new_attention_order": True,
}
GUIDED = {
    "new": NEW,
    "legacy": NEW | {"use_new_attention_order": False},
    "plain": NEW
    | {"class_cond": False, "learn_sigma": False, "resblock_updown": False, "use_scale_shift_norm": False}
    | {"num_head_channels": -1, "num_heads": 4, "use_new_attention_order": False},
    "upsampler": NEW | {"use_new_attention_order": False, "small_size": 4},
}
EDM = {
    "img_resolution": 8,
    "img_channels": 3,
    "label_dim": 5,
    "augment_dim": 9,
    "model_channels": 128,
    "channel_mult": [1, 1],
    "num_blocks": 1,
    "attn_resolutions": [4],
}
KL = {
    "sample_size": 8,
    "latent_channels": 3,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}
AUTOENCODERS = {"sd": KL, "sd3": KL | {"use_quant_conv": False, "use_post_quant_conv": False}}
TIMES = np.array([3.0, 901.0], np.float32)
SIGMAS = np.array([0.05, 8.0], np.float32)
LABELS = np.array([1, 4])


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """float32 tensors by name: each is drawn from its own name, away from the zeros that such networks start with."""
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if name.endswith("bias"):
        return random.uniform(-0.2, 0.2, shape).astype(np.float32)
    if len(shape) == 1:
        return random.uniform(0.5, 1.5, shape).astype(np.float32)
    return (random.uniform(-1, 1, shape) * np.sqrt(3 / np.prod(shape[1:]))).astype(np.float32)


def images(size: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    """float32 [2 size size channels] in [-1, 1]."""
    return np.random.RandomState(seed).uniform(-1, 1, (2, size, size, channels)).astype(np.float32)
