"""Distances between two point sets, and the work that a transport does."""

from interpolants.metrics.kernels import energy_distance, mmd
from interpolants.metrics.transport import path_energy, sliced_wasserstein2, wasserstein2

__all__ = ["energy_distance", "mmd", "path_energy", "sliced_wasserstein2", "wasserstein2"]
