"""The door: here, and nowhere else, names become objects. The default is IADB."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from interpolants.couplings import Coupling, Independent, OptimalTransport
from interpolants.data import Density, KnownDensity, load_density, shipped_density
from interpolants.families import EncodingDecoding, Linear, Trigonometric, VariancePreserving
from interpolants.fields import LearnedField
from interpolants.gammas import Brownian, Gamma, SineSquared, Zero
from interpolants.gammas import Quadratic as QuadraticGamma
from interpolants.interpolant import Interpolant
from interpolants.losses import (
    Denoiser,
    InverseVariance,
    Joint,
    Loss,
    Quadratic,
    Regression,
    Target,
    Velocity,
    Weighted,
)
from interpolants.networks import MLP, Heads
from interpolants.samplers import ODESampler

_INTERPOLANTS: dict[str, Callable[..., Interpolant]] = {
    "linear": Linear,
    "trigonometric": Trigonometric,
    "encoding-decoding": EncodingDecoding,
    "variance-preserving": VariancePreserving,
}
_GAMMAS: dict[str, Callable[..., Gamma]] = {
    "zero": Zero,
    "brownian": Brownian,
    "quadratic": QuadraticGamma,
    "sine-squared": SineSquared,
}
_LOSSES: dict[str, type[Regression] | type[Quadratic]] = {"regression": Regression, "quadratic": Quadratic}
_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU}
_LEARNED = ("velocity", "both")
_SCHEDULES = ("constant", "cosine")
_COUPLINGS: dict[str, Coupling] = {"independent": Independent(), "optimal-transport": OptimalTransport()}

Found = TypeVar("Found")

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
    gamma: str = "its own"
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
                raise ValueError(f"{_flag(name)} must be at least 1; got {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"--learning-rate must be positive; got {self.learning_rate}")
        if not 0 <= self.inverse_variance < math.inf:
            raise ValueError(f"--inverse-variance must not be negative; got {self.inverse_variance}")
        _named("--learn value", self.learn, dict.fromkeys(_LEARNED))
        _named("schedule", self.schedule, dict.fromkeys(_SCHEDULES))
        _named("activation", self.activation, _ACTIVATIONS)
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


def interpolant_of(config: Config) -> Interpolant:
    """Return the interpolant of a configuration.

    Raises:
        ValueError: When a name is unknown, or a user's class cannot be imported or made.

    Example:
        >>> interpolant_of(Config(interpolant="trigonometric", gamma="brownian:2"))
        Trigonometric(gamma=Brownian(a=2.0))
    """
    settings = {} if config.gamma == Config.gamma else {"gamma": gamma_of(config.gamma)}
    if ":" in config.interpolant:
        return imported_interpolant(config.interpolant, **settings)
    return _named("interpolant", config.interpolant, _INTERPOLANTS, " or yours as package.module:Class")(
        **settings
    )


def gamma_of(name: str) -> Gamma:
    """Return the latent noise of a name such as ``zero`` or ``brownian:2.0``.

    Raises:
        ValueError: When the name is unknown or its number is not one.
    """
    kind, colon, number = name.partition(":")
    make = _named("gamma", kind, _GAMMAS)
    if not colon:
        return make()
    if make is not Brownian:
        raise ValueError(f"--gamma {kind} takes no number; got {name!r}")
    try:
        return make(float(number))
    except ValueError as error:
        raise ValueError(f"--gamma {name}: {error}") from error


def imported_interpolant(name: str, **settings: Any) -> Interpolant:
    """Return the interpolant that ``package.module:Class`` (or ``:instance``) names.

    The current folder is searched too.

    Raises:
        ValueError: When it cannot be imported or made, or is no interpolant.
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), attribute)
        made = found(**settings) if isinstance(found, type) else found
    except Exception as error:
        raise ValueError(f"cannot make the interpolant {name}: {type(error).__name__}: {error}") from error
    finally:
        if added:
            sys.path.remove(here)
    if not isinstance(made, Interpolant):
        raise ValueError(f"{name} is a {type(made).__name__}, not an Interpolant")
    if settings and not isinstance(found, type):
        raise ValueError(f"{name} is an instance: its gamma is its own, so leave --gamma out")
    return made


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


def loss_of(config: Config, interpolant: Interpolant) -> Loss:
    """Return the loss of a configuration.

    Raises:
        ValueError: When a name is unknown, or there is no latent noise for a denoiser.
    """
    target: Target = Velocity()
    if config.inverse_variance > 0:
        target = Weighted(target, InverseVariance(interpolant.gamma, config.inverse_variance))
    if config.learns_denoiser:
        target = Joint(velocity=target, denoiser=Denoiser())
    return _named("loss", config.loss, _LOSSES)(
        interpolant,
        target,
        coupling=_named("coupling", config.coupling, _COUPLINGS),
        antithetic=config.antithetic,
    )


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


def sampler_of(config: Config, *, end_only: bool = False) -> ODESampler:
    """Return the sampler of a configuration.

    Raises:
        ValueError: When the method is unknown.
    """
    return ODESampler(config.method, steps=config.sample_steps, end_only=end_only)


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


def device_of(config: Config) -> torch.device:
    """Return the device of a configuration.

    Raises:
        ValueError: When the name is unknown or there is no such device here.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"--device {name} cannot be used here: {reason}") from error
    return device


_PURPOSES = ("data", "network", "training", "evaluation", "pictures", "diffusions")


def generator_of(config: Config, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one purpose of a run, so that one part does not shift another's numbers."""
    return torch.Generator(device).manual_seed((config.seed << 4) + _PURPOSES.index(purpose))


def _named(kind: str, name: str, known: Mapping[str, Found], also: str = "") -> Found:
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}{also}")
    return known[name]


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
