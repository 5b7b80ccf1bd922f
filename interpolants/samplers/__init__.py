"""From a field to samples."""

from interpolants.samplers.ode import ODESampler
from interpolants.samplers.trajectory import Trajectory

__all__ = ["ODESampler", "Trajectory"]
