"""The field of networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, check_instance, kind, per_example
from interpolants.fields.conversions import device_of
from interpolants.fields.derived import DerivedField
from interpolants.interpolant import Interpolant, SpatiallyLinear

Network = Callable[..., Any]
"""Anything called as ``network(t, x, **conditions)`` with ``t`` of shape ``(B,)``; returns ``x``'s shape, or
a mapping of such by name."""


def _ignores_source(interpolant: Interpolant) -> bool:
    if not isinstance(interpolant, SpatiallyLinear):
        return False
    times = torch.linspace(0.05, 0.45, 9, dtype=torch.float64, device=device_of(interpolant))
    return bool((interpolant.alpha(times) == 0).all())


@final
class LearnedField(DerivedField):
    r"""A field from networks, with everything that follows from them.

    Each network is called as ``network(t, x, **conditions)`` with ``t`` of shape ``(B,)``. What a network
    answers directly is passed on as it is. On a spatially linear interpolant the rest follows from
    linear equations in :math:`(\eta_0, \eta_1, \eta_z)`: without latent noise one network is enough,
    with latent noise two are, or one when the source is standard Gaussian. On any interpolant with latent
    noise the score follows from the denoiser.

    One network with several heads is given under each of its names and returns a mapping, such as
    ``{"velocity": b, "denoiser": eta}``; it is evaluated once for all that is asked together.

    Answers are finite at both ends. Where the networks' values at an end do not determine one of them
    (the score from a denoiser where gamma is 0), it is the answer at the nearest time where rounding errors
    are as small as that distance: 2.4e-5 for the score with a Brownian gamma in single precision.

    Args:
        interpolant: The interpolant the networks were trained on.
        velocity: Network for :math:`b`.
        denoiser: Network for :math:`\eta_z`.
        score: Network for :math:`s`.
        x0: Network for :math:`\eta_0`.
        x1: Network for :math:`\eta_1`.
        gaussian_source: Whether the source is N(0, Id) and independent of the target, which gives one more
            equation, :math:`s = -\eta_0 / \alpha`. Not after training on optimal-transport pairs.

    Raises:
        TypeError: When ``interpolant`` is no Interpolant, or a network cannot be called.
        ValueError: When no network is given, or ``gaussian_source`` on a path without a part of the source.

    Example:
        >>> from interpolants import Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x: torch.ones_like(x))
        >>> x = torch.zeros(3, 2)
        >>> field.velocity(0.5, x)[0], field.x1(0.5, x)[0]
        (tensor([1., 1.]), tensor([0.5000, 0.5000]))
        >>> field.score(0.5, x)
        Traceback (most recent call last):
        ...
        interpolants.fields.field.FieldUnavailable: the score cannot be derived from the velocity on Linear...
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
        for name, network in self.networks.items():
            if not callable(network) or isinstance(network, type):
                raise TypeError(f"{name} must be a network, called as network(t, x); got {kind(network)}")
        if gaussian_source and _ignores_source(interpolant):
            raise ValueError(
                f"gaussian_source says that x0 is N(0, Id) and a part of x_t; on {interpolant} it is none"
            )
        known = {name: id(network) for name, network in self.networks.items()}
        super().__init__(interpolant, known, gaussian_source=gaussian_source)

    @override
    def outputs(
        self, names: Iterable[str], t: Time, x: Tensor, conditions: dict[str, Any]
    ) -> dict[str, Tensor]:
        every = per_example(t, x)
        every = every if every.dtype == x.dtype else every.to(x.dtype)
        answers: dict[int, Any] = {}
        found: dict[str, Tensor] = {}
        for name in names:
            network = self.networks[name]
            if id(network) not in answers:
                answers[id(network)] = network(every, x, **conditions)
            found[name] = self._head(name, answers[id(network)], x)
        return found

    def _head(self, name: str, answer: Any, x: Tensor) -> Tensor:
        if not isinstance(answer, torch.Tensor) and isinstance(answer, Mapping):
            if name not in answer:
                raise ValueError(f"the network's answer has no {name!r}; it has {', '.join(answer)}")
            answer = answer[name]
        elif (
            len(self.networks) > 1
            and sum(network is self.networks[name] for network in self.networks.values()) > 1
        ):
            raise TypeError(
                "a network that is given under several names must return a mapping with each of them, "
                f'such as {{"velocity": ..., "denoiser": ...}}; got {kind(answer)}'
            )
        if not isinstance(answer, torch.Tensor):
            raise TypeError(f"network(t, x) must return a tensor; got {kind(answer)}")
        if answer.shape != x.shape:
            raise ValueError(
                f"network(t, x) must return the shape of x, {tuple(x.shape)}; got {tuple(answer.shape)}"
            )
        return answer
