"""Stochastic interpolants in PyTorch: from samples of two densities to a map between them.

The default configuration is Iterative alpha-(de)Blending: the linear interpolant without latent noise,
learned by regression and sampled by Euler steps along the flow.

Two things are called quadratic: ``interpolants.Quadratic`` is the objective, and the latent-noise
amplitude t(1 - t) is ``interpolants.gammas.Quadratic``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from interpolants import couplings, families, fields, gammas, interpolant, losses, oracles, samplers
from interpolants.checks import InterpolantError, check_interpolant
from interpolants.couplings import Coupling, Independent, OptimalTransport, Pairs
from interpolants.families import (
    Affine,
    EncodingDecoding,
    Linear,
    Mirror,
    Trigonometric,
    VariancePreserving,
)
from interpolants.fields import Field, FieldUnavailable, Guided, LearnedField
from interpolants.gammas import Brownian, Gamma, SineSquared, Zero
from interpolants.interpolant import Interpolant, InterpolantSample, SpatiallyLinear
from interpolants.losses import (
    X0,
    X1,
    Beta,
    Denoiser,
    Importance,
    InverseVariance,
    Joint,
    LogitNormal,
    Quadratic,
    Regression,
    Score,
    Stratified,
    Uniform,
    Velocity,
    Weighted,
)
from interpolants.oracles import (
    DataOracle,
    GaussianMixture,
    MixtureOracle,
    deblending_chain,
    random_walk,
)
from interpolants.samplers import (
    Bound,
    Constant,
    DDIMSampler,
    Divergence,
    Epsilon,
    Exact,
    Function,
    Hutchinson,
    Likelihood,
    ODESampler,
    Parabolic,
    ProportionalToAlpha,
    ProportionalToGamma,
    SDESampler,
    Trajectory,
    kl_bound,
    log_likelihood,
    sample_with_log_prob,
    sde_log_likelihood_bound,
    standard_normal_log_prob,
)

if TYPE_CHECKING:
    from interpolants import data, metrics, networks, plotting, training
    from interpolants.metrics import (
        energy_distance,
        frechet_distance,
        mmd,
        path_energy,
        sliced_wasserstein2,
        wasserstein2,
    )
    from interpolants.networks import MLP, Heads, Transformer, UNet, adapt
    from interpolants.training import Accelerated, Checkpoints, Trainer

__version__ = "0.1.0"

__all__ = [
    "MLP",
    "X0",
    "X1",
    "Accelerated",
    "Affine",
    "Beta",
    "Bound",
    "Brownian",
    "Checkpoints",
    "Constant",
    "Coupling",
    "DDIMSampler",
    "DataOracle",
    "Denoiser",
    "Divergence",
    "EncodingDecoding",
    "Epsilon",
    "Exact",
    "Field",
    "FieldUnavailable",
    "Function",
    "Gamma",
    "GaussianMixture",
    "Guided",
    "Heads",
    "Hutchinson",
    "Importance",
    "Independent",
    "Interpolant",
    "InterpolantError",
    "InterpolantSample",
    "InverseVariance",
    "Joint",
    "LearnedField",
    "Likelihood",
    "Linear",
    "LogitNormal",
    "Mirror",
    "MixtureOracle",
    "ODESampler",
    "OptimalTransport",
    "Pairs",
    "Parabolic",
    "ProportionalToAlpha",
    "ProportionalToGamma",
    "Quadratic",
    "Regression",
    "SDESampler",
    "Score",
    "SineSquared",
    "SpatiallyLinear",
    "Stratified",
    "Trainer",
    "Trajectory",
    "Transformer",
    "Trigonometric",
    "UNet",
    "Uniform",
    "VariancePreserving",
    "Velocity",
    "Weighted",
    "Zero",
    "adapt",
    "check_interpolant",
    "couplings",
    "data",
    "deblending_chain",
    "energy_distance",
    "families",
    "fields",
    "frechet_distance",
    "gammas",
    "interpolant",
    "kl_bound",
    "log_likelihood",
    "losses",
    "metrics",
    "mmd",
    "networks",
    "oracles",
    "path_energy",
    "plotting",
    "random_walk",
    "sample_with_log_prob",
    "samplers",
    "sde_log_likelihood_bound",
    "sliced_wasserstein2",
    "standard_normal_log_prob",
    "training",
    "wasserstein2",
]

# Imported when first used, to keep `import interpolants` as light as `import torch`.
_LAZY_FOLDERS = ("data", "metrics", "networks", "plotting", "training")
_LAZY_NAMES = {
    "Accelerated": "training",
    "Checkpoints": "training",
    "Heads": "networks",
    "MLP": "networks",
    "Trainer": "training",
    "Transformer": "networks",
    "UNet": "networks",
    "adapt": "networks",
    "energy_distance": "metrics",
    "frechet_distance": "metrics",
    "mmd": "metrics",
    "path_energy": "metrics",
    "sliced_wasserstein2": "metrics",
    "wasserstein2": "metrics",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY_FOLDERS:
        return importlib.import_module(f"interpolants.{name}")
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(f"interpolants.{_LAZY_NAMES[name]}"), name)
    raise AttributeError(f"module 'interpolants' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
