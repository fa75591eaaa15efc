"""transformers' CLIP and DINOv2 on random weights: what they answer, into golden/towers.npz.

    pip install torch==2.13.0 transformers==5.24.0 -r requirements.txt
    PYTHONPATH=. python tests/models/make_golden_towers.py

Prints how far this project's are from them.
"""

import json
import pathlib
import tempfile

import numpy as np
import torch
import tower_states
from safetensors.torch import load_file
from transformers import CLIPConfig, CLIPModel, Dinov2Config, Dinov2Model

from models import towers

GOLDEN = pathlib.Path(__file__).parent / "golden"


def saved(model, name: str, folder: str) -> dict:
    """The names and shapes that save_pretrained writes, once the weights are drawn by those names."""
    model.save_pretrained(folder)
    shapes = {key: list(x.shape) for key, x in load_file(f"{folder}/model.safetensors").items()}
    tower_states.write(pathlib.Path(folder), name, shapes)
    return shapes


@torch.no_grad()
def main() -> None:
    golden, shapes = {}, {}
    with tempfile.TemporaryDirectory() as root:
        for name, config in tower_states.CONFIGS.items():
            folder = f"{root}/{name}"
            kind, of = (CLIPModel, CLIPConfig) if name == "clip" else (Dinov2Model, Dinov2Config)
            shapes[name] = saved(kind(of(**config)), name, folder)
            model = kind.from_pretrained(folder).eval()
            x = torch.from_numpy(tower_states.normalised()).permute(0, 3, 1, 2)
            out = model.get_image_features(x).pooler_output if name == "clip" else model(x).pooler_output
            golden[name] = out.numpy()
            vision = towers.load_vision(folder)
            gap = np.abs(golden[name] - vision.apply(vision.params, tower_states.images()).pool).max()
            print(f"{name}: {gap:.1e}, deviation {golden[name].std():.2f}")
            if name == "clip":
                tokens = tower_states.tokens()
                golden["clip_text"] = model.get_text_features(torch.from_numpy(tokens).long()).pooler_output.numpy()
                text = towers.load_text(folder)
                gap = np.abs(golden["clip_text"] - text.apply(text.params, tokens)).max()
                print(f"clip, text: {gap:.1e}, deviation {golden['clip_text'].std():.2f}")
    np.savez_compressed(GOLDEN / "towers.npz", shapes=json.dumps(shapes), **golden)


if __name__ == "__main__":
    main()
