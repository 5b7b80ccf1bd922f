"""Networks: any ``(t, x) -> tensor``; they know no theory."""

from interpolants.networks.mlp import MLP

__all__ = ["MLP"]
