"""Networks of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from interpolants._tensors import check_instance, expand, kind

_ORDERS = ("xt", "tx", "x")


def adapt(
    module: nn.Module,
    order: str = "xt",
    *,
    times: int | Callable[[Tensor], Tensor] | None = None,
    integers: bool = False,
    reverse: bool = False,
    rename: Mapping[str, str] | None = None,
    output: str | int | None = None,
    heads: int = 1,
) -> Adapted:
    """Return ``module`` as a network called ``network(t, x, **conditions)``.

    Args:
        module: The network of another library; its parameters become the result's.
        order: The order of its arguments: ``"xt"``, ``"tx"``, or ``"x"`` for a module that knows no time and
            gets it as one further channel of ``x``, the last of dimension 1.
        times: What the module knows as time: None for t in [0, 1] itself; a number N of timesteps for
            (N - 1) t, from 0 to N - 1; or a function of t, shape ``(B,)``.
        integers: Whether the N timesteps are rounded to int64, for modules that look them up in a table.
            Otherwise they are floats, which modules that embed them in sines take and tell apart.
        reverse: Whether 1 - t takes the place of t: diffusion libraries put noise at large timesteps.
        rename: What the module calls its arguments, by our names: ``{"label": "class_labels"}``. When
            ``"t"`` or ``"x"`` is among them, it is passed by that name rather than by its place.
        output: Where the module's answer holds the tensor: the name of an attribute or key, as ``"sample"``
            with diffusers, or a place in a tuple. None when the answer is the tensor.
        heads: How many times the channels of ``x`` the answer has, for :class:`~interpolants.Heads`.

    Raises:
        TypeError: When ``module`` is no module.
        ValueError: When the order, the timesteps or the heads are out of range, two arguments get one name,
            or ``integers`` comes without a number of timesteps.

    Example:
        >>> class Backbone(nn.Module):
        ...     def forward(self, x, time):
        ...         return {"sample": x * time.reshape(-1, 1)}
        >>> network = adapt(Backbone(), rename={"t": "time"}, times=1000, output="sample")
        >>> network(torch.tensor([0.5]), torch.tensor([[1.0, 2.0]]))
        tensor([[499.5000, 999.0000]])
    """
    check_instance("module", module, nn.Module, "UNet2DModel(...)")
    rename = dict(rename or {})
    if order not in _ORDERS:
        raise ValueError(f"order must be one of {', '.join(_ORDERS)}; got {order!r}")
    if order == "x" and "t" in rename:
        raise ValueError(f"a module of order 'x' is passed no t, so it has no other name; got {rename}")
    if len(set(rename.values())) < len(rename):
        raise ValueError(f"rename must give every argument a name of its own; got {rename}")
    if heads < 1:
        raise ValueError(f"heads must be at least 1; got {heads}")
    return Adapted(module, order, _Times(times, integers, reverse), rename, output, heads)


@dataclass(frozen=True)
class _Times:
    """From t in [0, 1] to what a module knows as time."""

    times: int | Callable[[Tensor], Tensor] | None
    integers: bool
    reverse: bool

    def __post_init__(self) -> None:
        if not (self.times is None or callable(self.times)) and self.times < 2:
            raise ValueError(f"times must be at least 2 timesteps; got {self.times}")
        if self.integers and (self.times is None or callable(self.times)):
            raise ValueError("integers needs a number of timesteps, such as times=1000")

    def __call__(self, t: Tensor) -> Tensor:
        t = 1 - t if self.reverse else t
        if self.times is None:
            return t
        if callable(self.times):
            return self.times(t)
        steps = (self.times - 1) * t
        return steps.round().to(torch.int64) if self.integers else steps


class Adapted(nn.Module):
    """What :func:`adapt` returns; ``module`` is the network of the other library."""

    def __init__(
        self,
        module: nn.Module,
        order: str,
        times: Callable[[Tensor], Tensor],
        rename: Mapping[str, str],
        output: str | int | None,
        heads: int,
    ) -> None:
        super().__init__()
        self.module = module
        self.order = order
        self.times = times
        self.rename = rename
        self.output = output
        self.heads = heads

    def forward(self, t: Tensor, x: Tensor, **conditions: Any) -> Tensor:
        """Return the module's answer.

        Args:
            t: Times, shape ``(B,)``.
            x: Points, shape ``(B, *D)``.
            **conditions: Passed to the module by name, renamed where asked for.

        Raises:
            TypeError: When the answer, or the part of it named, is no tensor.
            ValueError: When there is no such part, or the tensor has not the shape of ``x``.
        """
        arguments = {"t": self.times(t), "x": x, **conditions}
        if self.order == "x":
            channel = expand(arguments.pop("t"), x).expand_as(x[:, :1])
            arguments["x"] = torch.cat([x, channel], dim=1)
        places = [arguments.pop(name) for name in self.order if name not in self.rename]
        named = {self.rename.get(name, name): value for name, value in arguments.items()}
        return self._checked(self._part(self.module(*places, **named)), x)

    def _part(self, answer: Any) -> Any:
        if self.output is None:
            return answer
        try:
            if isinstance(self.output, str) and not isinstance(answer, Mapping):
                return getattr(answer, self.output)
            return answer[self.output]
        except (AttributeError, LookupError, TypeError) as error:
            raise ValueError(
                f"output must name a part of the module's answer, {_described(answer)}; got {self.output!r}"
            ) from error

    def _checked(self, answer: Any, x: Tensor) -> Tensor:
        if not isinstance(answer, Tensor):
            hint = "; name the part of it that is, as output" if self.output is None else ""
            raise TypeError(f"the module must answer with a tensor; got {_described(answer)}{hint}")
        wanted = (x.shape[0], self.heads * x.shape[1], *x.shape[2:])
        if answer.shape != wanted:
            raise ValueError(
                f"the module must answer with shape {wanted} to x of shape {tuple(x.shape)}; "
                f"got {tuple(answer.shape)}"
            )
        return answer


def _described(answer: Any) -> str:
    if isinstance(answer, Mapping):
        return f"{kind(answer)} of {', '.join(map(str, answer))}"
    return f"{kind(answer)} of {len(answer)}" if isinstance(answer, tuple | list) else kind(answer)
