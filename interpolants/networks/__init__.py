"""Networks: any ``(t, x) -> tensor``; they know no theory."""

from interpolants.networks.heads import Heads
from interpolants.networks.mlp import MLP

__all__ = ["MLP", "Heads"]
