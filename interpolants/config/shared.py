"""What the configurations of points and of images share: the names of what both are made of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from interpolants.couplings import Coupling, Independent, OptimalTransport
from interpolants.families import EncodingDecoding, Linear, Trigonometric, VariancePreserving
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
LOSSES: dict[str, type[Regression] | type[Quadratic]] = {"regression": Regression, "quadratic": Quadratic}
COUPLINGS: dict[str, Coupling] = {"independent": Independent(), "optimal-transport": OptimalTransport()}

LEARNED = ("velocity", "both")
OWN = "its own"

Found = TypeVar("Found")


class Settings(Protocol):
    """What every configuration says."""

    @property
    def interpolant(self) -> str: ...  # noqa: D102
    @property
    def gamma(self) -> str: ...  # noqa: D102
    @property
    def loss(self) -> str: ...  # noqa: D102
    @property
    def antithetic(self) -> bool: ...  # noqa: D102
    @property
    def inverse_variance(self) -> float: ...  # noqa: D102
    @property
    def learns_denoiser(self) -> bool: ...  # noqa: D102
    @property
    def coupling(self) -> str: ...  # noqa: D102
    @property
    def method(self) -> str: ...  # noqa: D102
    @property
    def sample_steps(self) -> int: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> str: ...  # noqa: D102


def interpolant_of(config: Settings) -> Interpolant:
    """Return the interpolant of a configuration.

    Raises:
        ValueError: When a name is unknown, or a user's class cannot be imported or made.

    Example:
        >>> from interpolants.config import Config
        >>> interpolant_of(Config(interpolant="trigonometric", gamma="brownian:2"))
        Trigonometric(gamma=Brownian(a=2.0))
    """
    settings = {} if config.gamma == OWN else {"gamma": gamma_of(config.gamma)}
    if ":" in config.interpolant:
        return imported_interpolant(config.interpolant, **settings)
    return named("interpolant", config.interpolant, _INTERPOLANTS, " or yours as package.module:Class")(
        **settings
    )


def gamma_of(name: str) -> Gamma:
    """Return the latent noise of a name such as ``zero`` or ``brownian:2.0``.

    Raises:
        ValueError: When the name is unknown or its number is not one.
    """
    kind, colon, number = name.partition(":")
    make = named("gamma", kind, _GAMMAS)
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


def loss_of(config: Settings, interpolant: Interpolant) -> Loss:
    """Return the loss of a configuration.

    Raises:
        ValueError: When a name is unknown, or there is no latent noise for a denoiser.
    """
    target: Target = Velocity()
    if config.inverse_variance > 0:
        target = Weighted(target, InverseVariance(interpolant.gamma, config.inverse_variance))
    if config.learns_denoiser:
        target = Joint(velocity=target, denoiser=Denoiser())
    return named("loss", config.loss, LOSSES)(
        interpolant,
        target,
        coupling=named("coupling", config.coupling, COUPLINGS),
        antithetic=config.antithetic,
    )


def sampler_of(config: Settings, *, end_only: bool = False) -> ODESampler:
    """Return the sampler of a configuration.

    Raises:
        ValueError: When the method is unknown.
    """
    return ODESampler(config.method, steps=config.sample_steps, end_only=end_only)


def device_of(config: Settings) -> torch.device:
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


def generator_of(config: Settings, purpose: str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return the generator of one purpose of a run, so that one part does not shift another's numbers."""
    return torch.Generator(device).manual_seed((config.seed << 4) + _PURPOSES.index(purpose))


def named(kind: str, name: str, known: Mapping[str, Found], also: str = "") -> Found:
    """Return what a name stands for, or raise ValueError with the names there are."""
    if name not in known:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(known)}{also}")
    return known[name]


def flag(name: str) -> str:
    """Return the option of a field."""
    return "--" + name.replace("_", "-")
