"""Networks: any ``(t, x) -> tensor``; they know no theory."""

from interpolants.networks.adapt import adapt
from interpolants.networks.heads import Heads
from interpolants.networks.mlp import MLP
from interpolants.networks.transformer import Transformer
from interpolants.networks.unet import UNet

__all__ = ["MLP", "Heads", "Transformer", "UNet", "adapt"]
