"""Ways to train a velocity: an objective, a law of times, antithetic pairs, a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from interpolants import FieldUnavailable, Interpolant, InterpolantSample, LearnedField
from interpolants.losses import (
    X0,
    X1,
    Beta,
    Importance,
    InverseVariance,
    LogitNormal,
    Loss,
    Quadratic,
    Regression,
    Stratified,
    Target,
    TimeLaw,
    Uniform,
    Velocity,
)

UNIFORM = Uniform()
TARGETS: dict[str, Target] = {"velocity": Velocity(), "x0": X0(), "x1": X1()}


def derived(
    path: Interpolant, learns: str, network: Callable[[Tensor, Tensor], Tensor]
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the velocity that follows from a network's answers."""
    return LearnedField(path, **{learns: network}).velocity  # type: ignore[arg-type]


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Attributes:
        label: Its name in the tables.
        kind: The objective.
        times: The law of the training times.
        antithetic: Whether the latent noise is used with both signs.
        share: The minibatch's part of the usual number of pairs.
        weighted: Whether the loss is weighted by the inverse variance of its target.
        learns: What the network answers; the velocity is derived from it.
        told: Whether it is told the exact velocity in place of a random one.
    """

    label: str
    kind: type[Loss] = Regression
    times: TimeLaw = UNIFORM
    antithetic: bool = False
    share: float = 1.0
    weighted: bool = False
    learns: str = "velocity"
    told: bool = False

    @property
    def evaluations(self) -> float:
        """How often a step calls the network, in units of the plain loss's calls."""
        return self.share * (2 if self.antithetic else 1)

    @property
    def uniform(self) -> bool:
        """Whether its expected gradient is that of the plain loss."""
        same_law = self.times.weight(torch.tensor([0.25])) is not None or isinstance(
            self.times, Uniform | Stratified
        )
        return same_law and not self.weighted and self.learns == "velocity"

    def why_not(self, path: Interpolant) -> str:
        """Return why it cannot be had on a path, or is none of its own there; "" when it can."""
        if (self.antithetic or self.weighted) and path.gamma.vanishes:
            return "no latent noise"
        try:
            if self.learns != "velocity":
                derived(path, self.learns, lambda t, x: x)(torch.full((2,), 0.5), torch.zeros(2, 2))
        except FieldUnavailable:
            return "the velocity takes two networks"
        except Exception:
            return "the velocity does not follow"
        return ""

    def loss(self, path: Interpolant, seeds: int) -> Loss:
        """Return the loss of an ensemble: a sum over seeds of means over their rows."""
        inverse = InverseVariance(path.gamma) if self.weighted else torch.ones_like
        return self.kind(
            path,
            TARGETS[self.learns],
            times=Within(self.times, seeds),
            weight=lambda t: seeds * inverse(t),
            antithetic=self.antithetic,
        )


BASE = Variant("regression")
VARIANTS = (
    BASE,
    Variant("quadratic", Quadratic),
    Variant("antithetic", antithetic=True),
    Variant("antithetic, half the pairs", antithetic=True, share=0.5),
    Variant("inverse-variance weight", weighted=True),
    Variant("stratified times", times=Stratified()),
    Variant("stratified, antithetic, half the pairs", times=Stratified(), antithetic=True, share=0.5),
    Variant("importance: Beta(1/2, 1/2)", times=Importance(Beta(0.5, 0.5))),
    Variant("Beta(2, 2) times", times=Beta(2.0, 2.0)),
    Variant("logit-normal times", times=LogitNormal()),
    Variant("x0 in place of the velocity", learns="x0"),
    Variant("x1 in place of the velocity", learns="x1"),
)


TOLD = Variant("told the exact velocity", told=True)
"""No way to train, but where noise in what is learned from would have no part."""


@dataclass(frozen=True)
class Within(TimeLaw):
    """A law of times that is drawn anew for the rows of each seed: strata must not be shared out over seeds.

    Args:
        law: The law.
        seeds: How many seeds.
    """

    law: TimeLaw
    seeds: int

    def sample(self, n: int, like: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Return times, those of each seed one behind the other."""
        rows = n // self.seeds
        return torch.cat([self.law.sample(rows, like, generator=generator) for _ in range(self.seeds)])

    def density(self, t: Tensor) -> Tensor:
        """Return the density of the law."""
        return self.law.density(t)

    def weight(self, t: Tensor) -> Tensor | None:
        """Return the weight of the law."""
        return self.law.weight(t)


class Told(Interpolant):
    """Points with their exact velocity, dressed as a path: x0 is (x, t) and x1 is (velocity, t)."""

    def interpolate(self, t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        """Return the points."""
        return x0[:, :-1]

    def sample(
        self,
        t: float | Tensor,
        x0: Tensor,
        x1: Tensor,
        z: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> InterpolantSample:
        """Return the points with their own times and velocities."""
        return InterpolantSample(x0[:, -1], x0, x1, z, x0[:, :-1], x1[:, :-1])
