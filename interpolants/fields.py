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
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, as_time, expand, per_example
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

    The equations are solved with no clamp: at a time where they are singular (the ends, for most
    conversions) the answer may be infinite or nan, and a sampler should not ask there.

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
        interpolants.fields.FieldUnavailable: the score cannot be derived from velocity: ...
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
        self.interpolant = interpolant
        self.gaussian_source = gaussian_source
        self.kinks = interpolant.kinks

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
        if not isinstance(self.interpolant, SpatiallyLinear):
            raise self._unavailable(name, f"{type(self.interpolant).__name__} is not spatially linear")
        return self._solve(name, self.interpolant, as_time(t, x), x, conditions)

    def _solve(
        self, name: str, path: SpatiallyLinear, t: Tensor, x: Tensor, conditions: dict[str, Any]
    ) -> Tensor:
        # Every field is a row of coefficients times the unknowns (eta_0, eta_1, eta_z); the answer is
        # the combination of known fields whose rows add up to the wanted row.
        rows = _rows(path, t.double(), self.gaussian_source)
        if name not in rows:
            raise self._unavailable(name, "it needs latent noise, or gaussian_source=True for the score")
        known = [known for known in self.networks if known in rows]
        unknowns = 2 if path.gamma.vanishes else 3
        if "ratio" in rows:
            known.append("ratio")
        if 1 + len(known) < unknowns:
            raise self._unavailable(name, f"{unknowns} equations are needed and {1 + len(known)} are known")
        known = ["x", *known][:unknowns]
        system = torch.stack([torch.stack(rows[row], dim=-1)[..., :unknowns] for row in known], dim=-1)
        wanted = torch.stack(rows[name], dim=-1)[..., :unknowns]
        weights = torch.linalg.solve_ex(system, wanted.unsqueeze(-1)).result.squeeze(-1)
        answer = torch.zeros_like(x)
        for weight, row in zip(weights.unbind(-1), known, strict=True):
            if row != "ratio":
                value = x if row == "x" else self._answer(row, t, x, conditions)
                answer = answer + expand(weight, x) * value
        return answer

    def _unavailable(self, name: str, reason: str) -> FieldUnavailable:
        article = "E[x0|xt]" if name == "x0" else "E[x1|xt]" if name == "x1" else f"the {name}"
        return FieldUnavailable(
            f"{article} cannot be derived from {', '.join(self.networks)}: {reason}; "
            f"give LearnedField a network {name}=..."
        )


def _rows(path: SpatiallyLinear, t: Tensor, gaussian_source: bool) -> dict[str, list[Tensor]]:
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    alpha, beta, gamma = path.alpha(t), path.beta(t), path.gamma(t)
    latent = not path.gamma.vanishes
    rows = {
        "x": [alpha, beta, gamma],
        "velocity": [path.alpha_derivative(t), path.beta_derivative(t), path.gamma.derivative(t)],
        "x0": [one, zero, zero],
        "x1": [zero, one, zero],
    }
    if latent:
        rows["denoiser"] = [zero, zero, one]
        rows["score"] = [zero, zero, -1 / gamma]
    if gaussian_source:
        rows["score"] = [-1 / alpha, zero, zero]
        if latent:  # s = -eta_0 / alpha = -eta_z / gamma: a combination that is known to be 0.
            rows["ratio"] = [gamma, zero, -alpha]
    return {name: [torch.broadcast_to(c, t.shape) for c in row] for name, row in rows.items()}
