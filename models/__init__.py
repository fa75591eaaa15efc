"""Flax networks. Knowing nothing of diffusion, they map (image, number, condition) to an image."""

from models.dit import DiT
from models.edm2_unet import EDM2UNet
from models.efficient_unet import EfficientUNet
from models.song_unet import SongUNet
from models.u_vit import UViT
from models.unet import UNet

MODELS = {
    "unet": UNet,
    "efficient_unet": EfficientUNet,
    "song_unet": SongUNet,
    "edm2_unet": EDM2UNet,
    "dit": DiT,
    "u_vit": UViT,
}
