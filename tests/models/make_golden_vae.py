"""What diffusers' AutoencoderKL answers on random weights, into golden/autoencoder_kl.npz.

pip install torch==2.13.0 diffusers==0.42.1
python tests/models/make_golden_vae.py
"""

import json
import pathlib

import numpy as np
import torch
import unet_states
from diffusers import AutoencoderKL

GOLDEN = pathlib.Path(__file__).parent / "golden" / "autoencoder_kl.npz"
SIDE = 8


@torch.no_grad()
def answers(config: dict) -> dict[str, np.ndarray]:
    """Shapes of the state, the posterior's moments of two images, and what two latents are decoded to; b h w c."""
    network = AutoencoderKL(**config).eval()
    shapes = {name: list(x.shape) for name, x in network.state_dict().items()}
    state = unet_states.weights(shapes)
    network.load_state_dict({name: torch.from_numpy(x) for name, x in state.items()})
    posterior = network.encode(torch.from_numpy(unet_states.images(SIDE)).permute(0, 3, 1, 2)).latent_dist
    z = torch.from_numpy(unet_states.images(SIDE // 2, config["latent_channels"])).permute(0, 3, 1, 2)
    found = {"mean": posterior.mean, "log_variance": posterior.logvar, "decoded": network.decode(z).sample}
    return {"shapes": json.dumps(shapes)} | {name: x.permute(0, 2, 3, 1).numpy() for name, x in found.items()}


if __name__ == "__main__":
    found = {}
    for which, config in unet_states.AUTOENCODERS.items():
        found |= {f"{which}_{name}": value for name, value in answers(config).items()}
    np.savez_compressed(GOLDEN, **found)
