"""What a network is asked to learn, from which times, and how it is measured."""

from interpolants.losses.objectives import Draw, Estimate, Loss, Quadratic, Regression, Shard
from interpolants.losses.targets import X0, X1, Denoiser, Joint, Score, Target, Velocity, Weighted
from interpolants.losses.times import Beta, Importance, LogitNormal, Stratified, TimeLaw, Uniform
from interpolants.losses.weights import InverseVariance

__all__ = [
    "X0",
    "X1",
    "Beta",
    "Denoiser",
    "Draw",
    "Estimate",
    "Importance",
    "InverseVariance",
    "Joint",
    "LogitNormal",
    "Loss",
    "Quadratic",
    "Regression",
    "Score",
    "Shard",
    "Stratified",
    "Target",
    "TimeLaw",
    "Uniform",
    "Velocity",
    "Weighted",
]
