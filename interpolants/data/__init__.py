"""Two-dimensional densities and point sets, image sets, and the minibatches that training draws from them."""

from interpolants.data.arrays import load_npz
from interpolants.data.batches import ImageBatches
from interpolants.data.densities import Density, load_density, shipped_density
from interpolants.data.digits import Digits
from interpolants.data.folders import ImageFolder
from interpolants.data.glyphs import Glyphs
from interpolants.data.images import ImageSet, TensorImages
from interpolants.data.known import KnownDensity
from interpolants.data.named import checkerboard, eight_gaussians, moons, ring, two_spirals
from interpolants.data.pairs import RandomPairs
from interpolants.data.torchvision_sets import torchvision_set

__all__ = [
    "Density",
    "Digits",
    "Glyphs",
    "ImageBatches",
    "ImageFolder",
    "ImageSet",
    "KnownDensity",
    "RandomPairs",
    "TensorImages",
    "checkerboard",
    "eight_gaussians",
    "load_density",
    "load_npz",
    "moons",
    "ring",
    "shipped_density",
    "torchvision_set",
    "two_spirals",
]
