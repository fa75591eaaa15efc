"""Small CLIP and DINOv2 folders on random weights, without torch: the same everywhere."""

import json
import pathlib

import numpy as np
import unet_states

from models import safetensors

SIDE = 28  # dinov2's positions are learned at 42, and interpolated
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
CLIP_TEXT = SMALL | {
    "intermediate_size": 64,
    "vocab_size": 100,
    "max_position_embeddings": 12,
    "bos_token_id": 98,
    "eos_token_id": 99,
}
CONFIGS = {
    "clip": {
        "text_config": CLIP_TEXT,
        "vision_config": SMALL | {"intermediate_size": 64, "image_size": SIDE, "patch_size": 7},
        "projection_dim": 24,
    },
    "dinov2": SMALL | {"image_size": 42, "patch_size": 7},
}
MEAN, STD = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]


def write(folder: pathlib.Path, name: str, shapes: dict) -> None:
    """What a Hugging Face folder holds, with weights drawn by name."""
    folder.mkdir(exist_ok=True)
    weights = unet_states.weights({key: tuple(shape) for key, shape in shapes.items()})
    safetensors.write(str(folder / "model.safetensors"), weights)
    if not (folder / "config.json").exists():
        (folder / "config.json").write_text(json.dumps(CONFIGS[name] | {"model_type": name}))
    said = {"image_mean": MEAN, "image_std": STD, "crop_size": {"height": SIDE, "width": SIDE}}
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def images() -> np.ndarray:
    return np.random.RandomState(3).randint(0, 256, (2, SIDE, SIDE, 3)).astype(np.uint8)


def normalised() -> np.ndarray:
    return ((images() / 255 - MEAN) / STD).astype(np.float32)


def tokens() -> np.ndarray:
    """Two texts of other lengths, each ended and then filled up with the end token."""
    return np.array([[98, 5, 17, 33, 99] + [99] * 7, [98, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 99]], np.int32)
