r"""Guidance: one field pushed away from another.

Every quantity of a field is a combination of x and the posterior means with weights that depend on time
alone, the same for two fields on one path. The guided field :math:`f_u + w (f_c - f_u)` is an affine
combination with weights that add up to 1, so the guided quantities satisfy the same equations: the guided
score that belongs to the guided velocity is

.. math:: s_w = s_u + w (s_c - s_u) = \nabla \log (\rho_c^w \rho_u^{1 - w})(t, x).

That is exact at each time, and all that is: the :math:`\rho_c^w \rho_u^{1-w}` at different times are not the
marginals of one process, so for w other than 0 and 1 the samples depend on the sampler's
:math:`\epsilon` too, unlike without guidance, and do not have the density :math:`\rho_c^w \rho_u^{1-w}` at t
= 1 (Bradley and Nakkiran 2024, arXiv 2408.09000). Ho and Salimans 2022 (arXiv 2207.12598), with a worse
model in the place of the unconditional one Karras et al. 2024 (arXiv 2406.02507).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import Time, check_instance, expand, kind
from interpolants.fields.field import Diffusion, Field, double
from interpolants.interpolant import Interpolant


@final
class Guided(Field):
    r"""The field :math:`f_u + w (f_c - f_u)`: classifier-free guidance, and auto-guidance.

    Args:
        conditional: The field to follow, :math:`f_c`.
        unconditional: The field to leave, :math:`f_u`: the same without its condition, or a worse one.
        scale: The scale w: 0 is the unconditional field, 1 the conditional one, more exaggerates. A
            number, or a function of time (a float in [0, 1]) for guidance in part of it.
        null: Conditions of the unconditional field in place of those given, by name: with one network for
            both, the label that stands for none.

    Raises:
        TypeError: When a field is no Field, or ``scale`` neither a number nor a function.
        ValueError: When the fields are of different paths.

    Example:
        >>> from interpolants import LearnedField, Linear
        >>> field = LearnedField(Linear(), velocity=lambda t, x, label: label.reshape(-1, 1) + 0 * x)
        >>> guided = Guided(field, field, 3.0, null={"label": torch.zeros(2)})
        >>> guided.velocity(0.5, torch.zeros(2, 1), label=torch.tensor([1.0, 2.0]))
        tensor([[3.],
                [6.]])
    """

    interpolant: Interpolant | None

    def __init__(
        self,
        conditional: Field,
        unconditional: Field,
        scale: float | Callable[[float], float],
        *,
        null: Mapping[str, Any] | None = None,
    ) -> None:
        for name, part in (("conditional", conditional), ("unconditional", unconditional)):
            check_instance(name, part, Field, "LearnedField(interpolant, velocity=network)")
        if isinstance(scale, bool) or not (isinstance(scale, float | int) or callable(scale)):
            raise TypeError(f"scale must be a number or a function of time; got {kind(scale)}")
        if conditional.interpolant != unconditional.interpolant:
            raise ValueError(
                "both fields must be of one path, or their quantities cannot be mixed; got "
                f"{conditional.interpolant} and {unconditional.interpolant}: bring one along the other's"
            )
        self.conditional = conditional
        self.unconditional = unconditional
        self.scale = scale
        self.null = dict(null or {})
        self.interpolant = conditional.interpolant
        self.gaussian_source = conditional.gaussian_source and unconditional.gaussian_source
        self.kinks = tuple(sorted({*conditional.kinks, *unconditional.kinks}))

    @override
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._mixed(lambda field, given: field.velocity(t, x, **given), t, x, conditions)

    @override
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._mixed(lambda field, given: field.score(t, x, **given), t, x, conditions)

    @override
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._mixed(lambda field, given: field.denoiser(t, x, **given), t, x, conditions)

    @override
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._mixed(lambda field, given: field.x0(t, x, **given), t, x, conditions)

    @override
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self._mixed(lambda field, given: field.x1(t, x, **given), t, x, conditions)

    @override
    def together(self, names: Sequence[str], t: Time, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        stacked = self._mixed(
            lambda field, given: torch.stack(list(field.together(names, t, x, **given).values()), dim=1),
            t,
            x,
            conditions,
        )
        return dict(zip(names, stacked.unbind(1), strict=True))

    @override
    def require(self, *names: str) -> None:
        for field in (self.conditional, self.unconditional):
            field.require(*names)

    @override
    def drift(
        self,
        t: Time,
        x: Tensor,
        epsilon: Diffusion,
        *,
        reverse: bool = False,
        nearest: float = 0.0,
        **conditions: Any,
    ) -> Tensor:
        return self._mixed(
            lambda field, given: field.drift(t, x, epsilon, reverse=reverse, nearest=nearest, **given),
            t,
            x,
            conditions,
        )

    @override
    @contextmanager
    def prepared(
        self,
        times: Sequence[float],
        x: Tensor,
        names: Sequence[str] = ("velocity",),
        *,
        epsilon: Diffusion | None = None,
        reverse: bool = False,
        nearest: float = 0.0,
    ) -> Iterator[None]:
        with ExitStack() as both:
            for field in (self.conditional, self.unconditional):
                context = field.prepared(times, x, names, epsilon=epsilon, reverse=reverse, nearest=nearest)
                both.enter_context(context)
            yield

    def _mixed(
        self,
        answer: Callable[[Field, dict[str, Any]], Tensor],
        t: Time,
        x: Tensor,
        conditions: dict[str, Any],
    ) -> Tensor:
        scale = self._scale(t)
        if isinstance(scale, float) and scale == 1.0:  # As outside an interval of guidance.
            return answer(self.conditional, conditions)
        away = answer(self.unconditional, {**conditions, **self.null})
        towards = answer(self.conditional, conditions)
        return torch.lerp(away, towards, scale if isinstance(scale, float) else expand(scale.to(x), away))

    def _scale(self, t: Time) -> float | Tensor:
        if not callable(self.scale):
            return float(self.scale)
        if isinstance(t, Tensor) and t.ndim > 0:
            scales = [float(self.scale(float(time))) for time in double(t)]
            return torch.tensor(scales, dtype=torch.float64)
        return float(self.scale(float(t)))
