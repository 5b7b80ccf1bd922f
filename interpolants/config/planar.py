"""Runs in the plane, from one density to another. The default is IADB."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from interpolants.config.shared import LEARNED, OWN, flag, generator_of, named
from interpolants.data import Density, KnownDensity, load_density, shipped_density
from interpolants.fields import LearnedField
from interpolants.interpolant import Interpolant
from interpolants.networks import MLP, Heads

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_SCHEDULES = ("constant", "cosine")

PRESETS: dict[str, dict[str, Any]] = {
    "iadb-2d": {},
    # Velocity and denoiser from a Gaussian to a checkerboard, whose best likelihood is known.
    "sde-2d": {
        "p0": "normal",
        "p1": "checkerboard",
        "gamma": "brownian:0.1",
        "learn": "both",
        "inverse_variance": 0.25,
        "batch_size": 512,
        "learning_rate": 4e-3,
        "schedule": "cosine",
        "width": 128,
        "activation": "silu",
        "points": 262_144,
        "sample_steps": 256,
    },
}
"""What a preset of the command line changes of the defaults."""


@dataclass(frozen=True)
class Config:
    """Everything a run of the two-dimensional system depends on.

    Attributes:
        p0: Source: a picture, normal or checkerboard.
        p1: Target: a picture, normal or checkerboard.
        interpolant: linear (IADB), trigonometric, encoding-decoding,
            variance-preserving, or yours as package.module:Class.
        gamma: zero, brownian, brownian:A, quadratic or sine-squared.
        loss: regression or quadratic.
        antithetic: Use each example with z and -z.
        learn: velocity, or both: denoiser too, for SDEs; needs a gamma.
        inverse_variance: Weigh the velocity by c / (c + gamma'^2); 0 for not.
        coupling: independent or optimal-transport.
        steps: Training steps.
        batch_size: Examples in a step.
        learning_rate: Adam's, at first.
        schedule: constant, or cosine down to 0.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        activation: relu or silu.
        points: Points to train on, of each density.
        samples: Points carried in the end.
        method: euler, heun, midpoint, rk4, dopri5, ...
        sample_steps: Steps along the flow.
        seed: Fixes every random number.
        device: auto, cpu, cuda, ...
        threads: CPU threads; small networks are fastest with one.
        compile: Compile the training step; needs a C++ compiler.

    Raises:
        ValueError: When a value is out of range; the message says what must hold.

    Example:
        >>> Config().interpolant, Config().loss
        ('linear', 'regression')
    """

    p0: str = "shipped"
    p1: str = "shipped"
    interpolant: str = "linear"
    gamma: str = OWN
    loss: str = "regression"
    antithetic: bool = False
    learn: str = "velocity"
    inverse_variance: float = 0.0
    coupling: str = "independent"
    steps: int = 65_536
    batch_size: int = 256
    learning_rate: float = 1e-3
    schedule: str = "constant"
    width: int = 64
    depth: int = 4
    activation: str = "relu"
    points: int = 65_536
    samples: int = 2_048
    method: str = "euler"
    sample_steps: int = 128
    seed: int = 0
    device: str = "auto"
    threads: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "width", "depth", "points", "samples", "sample_steps", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{flag(name)} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be positive; got {self.learning_rate}")
        if not 0 <= self.inverse_variance < math.inf:
            raise ValueError(f"--inverse-variance must not be negative; got {self.inverse_variance}")
        named("--learn value", self.learn, dict.fromkeys(LEARNED))
        named("schedule", self.schedule, dict.fromkeys(_SCHEDULES))
        named("activation", self.activation, _ACTIVATIONS)
        if not 0 <= self.seed < 2**48:
            raise ValueError(f"--seed must lie in [0, 2^48); got {self.seed}")

    @property
    def learns_denoiser(self) -> bool:
        """Whether the network has a second head, for the denoiser."""
        return self.learn == "both"

    def to_json(self) -> str:
        """Return the configuration as JSON text; :meth:`from_json` reads it."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Config:
        """Return the configuration that :meth:`to_json` wrote.

        Raises:
            ValueError: When the text is no such configuration.

        Example:
            >>> Config.from_json(Config(steps=5).to_json()) == Config(steps=5)
            True
        """
        try:
            return cls(**json.loads(text))
        except (TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a configuration of this version: {error}") from error


def density_of(name: str, *, shipped: str) -> Density | KnownDensity:
    """Return the density of a name or of a picture.

    Args:
        name: ``shipped``, the name of a known density, or a picture.
        shipped: Which of the shipped pictures is meant.

    Raises:
        OSError: When the picture cannot be read.
        ValueError: When it is no density.
    """
    if name in KnownDensity.names():
        return KnownDensity(name)
    return load_density(shipped_density(shipped) if name == "shipped" else name)


def network_of(config: Config) -> nn.Module:
    """Return the network of a configuration, its weights drawn from the seed."""
    network = MLP(
        2,
        width=config.width,
        depth=config.depth,
        activation=_ACTIVATIONS[config.activation],
        out_dim=4 if config.learns_denoiser else 2,
        generator=generator_of(config, "network"),
    )
    return Heads(network, ("velocity", "denoiser")) if config.learns_denoiser else network


def field_of(config: Config, interpolant: Interpolant, network: nn.Module) -> LearnedField:
    """Return the field of a configuration's network."""
    return LearnedField(interpolant, velocity=network, denoiser=network if config.learns_denoiser else None)


def optimizer_of(
    config: Config, learning_rate: float | torch.Tensor | None = None
) -> Callable[..., torch.optim.Optimizer]:
    """Return what makes the optimiser from the parameters: Adam in one fused kernel.

    Args:
        config: The configuration.
        learning_rate: A tensor to be changed while training, in place of the configuration's number.
    """
    rate = config.learning_rate if learning_rate is None else learning_rate
    return partial(torch.optim.Adam, lr=rate, fused=True)


def learning_rate_at(config: Config, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    Example:
        >>> config = Config(steps=1000, learning_rate=1.0, schedule="cosine")
        >>> round(learning_rate_at(config, 500), 3)
        0.5
    """
    if config.schedule == "constant":
        return config.learning_rate
    # The first steps of Adam are as long as any other: they are walked up to.
    warmth = min(1.0, (step + 1) / 200)
    return config.learning_rate * warmth * (1 + math.cos(math.pi * step / config.steps)) / 2
