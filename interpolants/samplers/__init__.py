"""From a field to samples, and to their densities."""

from interpolants.samplers.bounds import Bound, kl_bound, sde_log_likelihood_bound
from interpolants.samplers.ddim import DDIMSampler
from interpolants.samplers.diffusions import (
    Constant,
    Epsilon,
    Function,
    Parabolic,
    ProportionalToAlpha,
    ProportionalToGamma,
)
from interpolants.samplers.likelihood import (
    Divergence,
    Exact,
    Hutchinson,
    Likelihood,
    log_likelihood,
    sample_with_log_prob,
    standard_normal_log_prob,
)
from interpolants.samplers.ode import ODESampler
from interpolants.samplers.sde import SDESampler
from interpolants.samplers.trajectory import Trajectory

__all__ = [
    "Bound",
    "Constant",
    "DDIMSampler",
    "Divergence",
    "Epsilon",
    "Exact",
    "Function",
    "Hutchinson",
    "Likelihood",
    "ODESampler",
    "Parabolic",
    "ProportionalToAlpha",
    "ProportionalToGamma",
    "SDESampler",
    "Trajectory",
    "kl_bound",
    "log_likelihood",
    "sample_with_log_prob",
    "sde_log_likelihood_bound",
    "standard_normal_log_prob",
]
