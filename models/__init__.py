"""Flax networks, one table for each family. They know nothing of losses and of sampling."""

from models.autoregressive import Transformer
from models.efficient_unet import EfficientUNet
from models.gan import Gan
from models.unet import UNet
from models.vae import VAE

MODELS = {"unet": UNet, "efficient_unet": EfficientUNet}  # of diffusion
AUTOENCODERS = {"vae": VAE}
TRANSFORMERS = {"transformer": Transformer}  # of the autoregressive family
GANS = {"gan": Gan}
