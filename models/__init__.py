"""Flax networks, one table for each family. They know nothing of losses and of sampling."""

from models.autoregressive import Transformer
from models.dit import DiT
from models.edm2_unet import EDM2UNet
from models.efficient_unet import EfficientUNet
from models.gan import Gan
from models.song_unet import SongUNet
from models.u_vit import UViT
from models.unet import UNet
from models.vae import VAE

MODELS = {  # of diffusion
    "unet": UNet,
    "efficient_unet": EfficientUNet,
    "song_unet": SongUNet,
    "edm2_unet": EDM2UNet,
    "dit": DiT,
    "u_vit": UViT,
}
AUTOENCODERS = {"vae": VAE}
TRANSFORMERS = {"transformer": Transformer}  # of the autoregressive family
GANS = {"gan": Gan}
