"""Two-dimensional densities and point sets, and the pairs that training draws from them."""

from interpolants.data.densities import Density, load_density, shipped_density
from interpolants.data.known import KnownDensity
from interpolants.data.named import checkerboard, eight_gaussians, moons, ring, two_spirals
from interpolants.data.pairs import RandomPairs

__all__ = [
    "Density",
    "KnownDensity",
    "RandomPairs",
    "checkerboard",
    "eight_gaussians",
    "load_density",
    "moons",
    "ring",
    "shipped_density",
    "two_spirals",
]
