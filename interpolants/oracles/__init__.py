"""What a network should have learnt, exactly: mixtures, finite data, the random chain, samples on a grid."""

from interpolants.oracles.chain import (
    Polygon,
    RejectionPosterior,
    Shape,
    deblending_chain,
    random_walk,
    rhombus,
    triangle,
)
from interpolants.oracles.data import DataOracle
from interpolants.oracles.grid import field_on_grid, grid_points
from interpolants.oracles.mixtures import GaussianMixture, MixtureOracle

__all__ = [
    "DataOracle",
    "GaussianMixture",
    "MixtureOracle",
    "Polygon",
    "RejectionPosterior",
    "Shape",
    "deblending_chain",
    "field_on_grid",
    "grid_points",
    "random_walk",
    "rhombus",
    "triangle",
]
