r"""Fields: what carries one density into the other, learned or exact.

A field answers, at a time and points, with the average direction (velocity), the score, the average
latent noise (denoiser) and the average ends. Samplers take any field; an oracle is one, and a network
makes one through :class:`LearnedField`. All satisfy, for a spatially linear interpolant,

.. math::
    x = \alpha \eta_0 + \beta \eta_1 + \gamma \eta_z, \qquad
    b = \dot\alpha \eta_0 + \dot\beta \eta_1 + \dot\gamma \eta_z, \qquad
    s = -\eta_z / \gamma,

with :math:`\eta_0 = E[x_0 | x_t = x]` and so on (Albergo, Boffi and Vanden-Eijnden 2023, arXiv 2303.08797).
"""

from __future__ import annotations

import abc
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, as_time, check_instance, expand, per_example
from interpolants.interpolant import Interpolant, SpatiallyLinear

Network = Callable[..., Tensor]
"""Anything called as ``network(t, x, **conditions)`` with ``t`` of shape ``(B,)``; returns ``x``'s shape."""


class FieldUnavailable(ValueError):
    """Raised when the given networks do not determine what was asked for."""


class Field(abc.ABC):
    """What is known of the transport at time t and points x.

    ``t`` is a float, ``()`` or ``(B,)``; ``x`` is ``(B, *D)``, and so is every answer. Conditions pass
    through to the networks.
    """

    #: Times inside (0, 1) where a higher derivative of the velocity jumps.
    kinks: tuple[float, ...] = ()

    @abc.abstractmethod
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`b(t, x) = E[\dot x_t | x_t = x]`."""

    @abc.abstractmethod
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`s(t, x) = \nabla \log \rho(t, x)`."""

    @abc.abstractmethod
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_z(t, x) = E[z | x_t = x]`, the average latent noise."""

    @abc.abstractmethod
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_0(t, x) = E[x_0 | x_t = x]`."""

    @abc.abstractmethod
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        r"""Return :math:`\eta_1(t, x) = E[x_1 | x_t = x]`."""


class LearnedField(Field):
    r"""A field from networks, with everything that follows from them.

    Each network is called as ``network(t, x, **conditions)`` with ``t`` of shape ``(B,)``. What a network
    answers directly is passed on as it is. On a spatially linear interpolant the rest follows from
    linear equations in :math:`(\eta_0, \eta_1, \eta_z)`: without latent noise one network is enough,
    with latent noise two are, or one when the source is standard Gaussian.

    The equations are solved with no clamp: at a time where they do not determine the answer (an end, for
    some conversions) it is nan, and a sampler should not ask there.

    Args:
        interpolant: The interpolant the networks were trained on.
        velocity: Network for :math:`b`.
        denoiser: Network for :math:`\eta_z`.
        score: Network for :math:`s`.
        x0: Network for :math:`\eta_0`.
        x1: Network for :math:`\eta_1`.
        gaussian_source: Whether the source is N(0, Id), which gives one more equation,
            :math:`s = -\eta_0 / \alpha`.

    Raises:
        TypeError: When ``interpolant`` is no Interpolant.
        ValueError: When no network is given.

    Example:
        >>> from interpolants import Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x: torch.ones_like(x))
        >>> x = torch.zeros(3, 2)
        >>> field.velocity(0.5, x)[0], field.x1(0.5, x)[0]
        (tensor([1., 1.]), tensor([0.5000, 0.5000]))
        >>> field.score(0.5, x)
        Traceback (most recent call last):
        ...
        interpolants.fields.FieldUnavailable: the score cannot be derived from the velocity on Linear...
    """

    def __init__(
        self,
        interpolant: Interpolant,
        *,
        velocity: Network | None = None,
        denoiser: Network | None = None,
        score: Network | None = None,
        x0: Network | None = None,
        x1: Network | None = None,
        gaussian_source: bool = False,
    ) -> None:
        named = {"velocity": velocity, "denoiser": denoiser, "score": score, "x0": x0, "x1": x1}
        self.networks = {name: network for name, network in named.items() if network is not None}
        if not self.networks:
            raise ValueError("LearnedField needs at least one network: velocity, denoiser, score, x0 or x1")
        check_instance("interpolant", interpolant, Interpolant, "Linear()")
        self.interpolant = interpolant
        self.gaussian_source = gaussian_source
        self.kinks = interpolant.kinks
        self._found: dict[str, tuple[str, ...]] = {}

    @override
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._answer("velocity", t, x, conditions)

    @override
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._answer("score", t, x, conditions)

    @override
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._answer("denoiser", t, x, conditions)

    @override
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._answer("x0", t, x, conditions)

    @override
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._answer("x1", t, x, conditions)

    def _answer(self, name: str, t: Time, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        if name in self.networks:
            return self.networks[name](per_example(t, x).to(x.dtype), x, **conditions)
        path = self.interpolant
        if not isinstance(path, SpatiallyLinear):
            raise FieldUnavailable(
                f"{_TITLES[name]} cannot be derived from {self._given()}: {type(path).__name__} is not "
                f"spatially linear; give LearnedField a network {name}=..."
            )
        sources = self._sources(name, path)
        # The wanted row as a combination of the known ones: the same combination of what they stand for.
        rows = _rows(path, as_time(t, x).double(), self.gaussian_source)
        weights = _combination([rows[source] for source in sources], rows[name])
        answer = torch.zeros_like(x)
        for source, weight in zip(sources, weights.unbind(-1), strict=True):
            if source != _RATIO:  # That row stands for 0.
                value = x if source == _POINT else self._answer(source, t, x, conditions)
                answer = answer + expand(weight, x) * value
        return answer

    def _sources(self, name: str, path: SpatiallyLinear) -> tuple[str, ...]:
        """Return the fewest known rows that determine ``name`` at almost every time."""
        if name not in self._found:
            found = _fewest(name, tuple(self.networks), path, self.gaussian_source)
            if found is None:
                helpful = [
                    f"{more}=..."
                    for more in _TITLES
                    if _fewest(name, (*self.networks, more), path, self.gaussian_source) is not None
                ]
                advice = f"give LearnedField also {' or '.join(helpful)}" if helpful else _NO_LATENT[name]
                raise FieldUnavailable(
                    f"{_TITLES[name]} cannot be derived from {self._given()} on {path}: {advice}"
                )
            self._found[name] = found
        return self._found[name]

    def _given(self) -> str:
        return " and ".join(_TITLES[name] for name in self.networks)


_TITLES = {
    "velocity": "the velocity",
    "denoiser": "the denoiser",
    "score": "the score",
    "x0": "E[x0]",
    "x1": "E[x1]",
}
# Why no other network helps: only these two ask for latent noise.
_NO_LATENT = {
    "denoiser": "there is no latent noise to average; train on an interpolant with a gamma",
    "score": (
        "without latent noise it follows only when the source is N(0, Id); if it is, say "
        "gaussian_source=True, otherwise train on an interpolant with a gamma"
    ),
}
_POINT, _RATIO = "x", "ratio"


def _rows(path: SpatiallyLinear, t: Tensor, gaussian_source: bool) -> dict[str, Tensor]:
    """Return every known or wanted quantity as its coefficients of (eta_0, eta_1, eta_z), shape (T, 3)."""
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    alpha, beta, gamma = path.alpha(t), path.beta(t), path.gamma(t)
    rows = {
        _POINT: (alpha, beta, gamma),
        "velocity": (path.alpha_derivative(t), path.beta_derivative(t), path.gamma.derivative(t)),
        "x0": (one, zero, zero),
        "x1": (zero, one, zero),
    }
    if not path.gamma.vanishes:
        rows["denoiser"] = (zero, zero, one)
        rows["score"] = (zero, zero, -1 / gamma)
    if gaussian_source:
        rows["score"] = (-1 / alpha, zero, zero)
        if not path.gamma.vanishes:  # s = -eta_0 / alpha = -eta_z / gamma, so this combination is 0.
            rows[_RATIO] = (gamma, zero, -alpha)
    latent = slice(2 if path.gamma.vanishes else 3)
    return {
        name: torch.stack([torch.broadcast_to(c, t.shape) for c in row[latent]], dim=-1)
        for name, row in rows.items()
    }


def _fewest(
    name: str, networks: tuple[str, ...], path: SpatiallyLinear, gaussian_source: bool
) -> tuple[str, ...] | None:
    # Two times in no special place: what holds there holds but for isolated times.
    with torch.no_grad():
        rows = _rows(path, torch.tensor([0.3127, 0.7193], dtype=torch.float64), gaussian_source)
    known = [row for row in (*networks, _RATIO, _POINT) if row in rows]
    for size in range(1, len(known) + 1):
        for some in itertools.combinations(known, size):
            if name in rows and _combination([rows[row] for row in some], rows[name]).isfinite().all():
                return some
    return None


def _combination(known: list[Tensor], wanted: Tensor) -> Tensor:
    """Return the weights of the known rows that add up to the wanted one, (T, K); nan where none do."""
    system = torch.stack(known, dim=-1)
    # By pseudo-inverse: on CUDA torch's least squares take only systems of full rank.
    weights: Tensor = torch.linalg.pinv(system) @ wanted.unsqueeze(-1)
    missing = ((system @ weights).squeeze(-1) - wanted).abs()
    # To rounding of the terms that are added: large weights may cancel near the ends.
    terms = (system.abs() @ weights.abs()).squeeze(-1) + wanted.abs().amax(-1, keepdim=True)
    exact = (missing <= 1e-10 * terms).all(-1, keepdim=True)
    return torch.where(exact, weights.squeeze(-1), torch.nan)
