"""Flax networks. Knowing nothing of diffusion, they map (image, number, condition) to an image."""

from models.efficient_unet import EfficientUNet
from models.unet import UNet

MODELS = {"unet": UNet, "efficient_unet": EfficientUNet}
