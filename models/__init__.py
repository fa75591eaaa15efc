"""Flax networks. Knowing nothing of diffusion, they map (image, number, condition) to an image."""

from models.unet import UNet

MODELS = {"unet": UNet}
