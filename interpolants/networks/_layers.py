"""What the image networks share: how layers are made and drawn, and how time and class are told to them."""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from interpolants._tensors import check_instance, kind

_Module = TypeVar("_Module", bound=nn.Module)

TIME_FEATURES = 256
TIME_SCALE = 1000.0


def blank(kind: Callable[..., _Module], *sizes: int, **options: Any) -> _Module:
    """Return a layer whose weights are not drawn yet: :func:`draw_weights` does it, from one generator."""
    device = torch.get_default_device()
    layer = nn.utils.skip_init(kind, *sizes, device=device, **options)  # type: ignore[no-untyped-call]
    return cast("_Module", layer)


def draw_weights(network: nn.Module, generator: torch.Generator | None) -> None:
    """Draw all weights by the laws of the layers' own initialisation, but from ``generator``."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            bound = 1 / math.sqrt(layer.weight[0].numel())
            nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
            if layer.bias is not None:
                nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, generator=generator)


def zero_weights(layer: nn.Linear | nn.Conv2d) -> None:
    """Set a layer to zero."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def waves(position: Tensor, features: int) -> Tensor:
    r"""Return sines, then cosines, of :math:`p\, 10000^{-2k/n}` for k = 0, 1, ..., n/2 - 1.

    Args:
        position: The positions p, shape ``(N,)``.
        features: The number n of features, even.

    Returns:
        The features, shape ``(N, n)``, at least in single precision.

    Example:
        >>> waves(torch.tensor([0.0]), 4)
        tensor([[0., 0., 1., 1.]])
    """
    position = position.to(torch.promote_types(position.dtype, torch.float32))
    exponents = torch.arange(0, features, 2, dtype=position.dtype, device=position.device) / features
    angles = position.unsqueeze(1) * torch.exp(-math.log(10_000) * exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Condition(nn.Module):
    """One vector for the time, and the class where there are any: their embeddings' sum.

    Time t in [0, 1] enters as 256 sines and cosines of 1000 t, the scale of diffusion models, and passes
    two layers. The class is a row of a table whose last row stands for no class.

    Args:
        width: The width of the vector.
        classes: The number of classes, or None.
        class_dropout: How often, in training mode, a class is replaced by no class.

    Raises:
        ValueError: When ``classes`` is below 1 or ``class_dropout`` is no probability.
    """

    def __init__(self, width: int, classes: int | None, class_dropout: float) -> None:
        super().__init__()
        if classes is not None:
            check_sizes(classes=classes)
        check_probability("class_dropout", class_dropout)
        self.classes = classes
        self.class_dropout = class_dropout
        self.first = blank(nn.Linear, TIME_FEATURES, width)
        self.last = blank(nn.Linear, width, width)
        self.table = None if classes is None else blank(nn.Embedding, classes + 1, width)

    def forward(self, t: Tensor, label: Tensor | None) -> Tensor:
        """Return the vector of each example, shape ``(B, width)``.

        Args:
            t: Times, shape ``(B,)``.
            label: Classes, shape ``(B,)``, or None for no class.

        Raises:
            ValueError: When a label came and there are no classes, or its shape is not that of ``t``.
            TypeError: When the labels are no tensor of integers.
        """
        # In the precision of t: bfloat16 cannot tell 998 from 1000.
        features = waves(TIME_SCALE * t, TIME_FEATURES).to(self.first.weight.dtype)
        vector: Tensor = self.last(nn.functional.silu(self.first(features)))
        if self.table is not None:
            vector = vector + self.table(self._rows(t, label))
        elif label is not None:
            raise ValueError("this network has no classes, so label must be None; give it classes=...")
        return vector

    def _rows(self, t: Tensor, label: Tensor | None) -> Tensor:
        assert self.classes is not None
        if label is None:
            return torch.full_like(t, self.classes, dtype=torch.int64)
        check_instance("label", label, Tensor, "torch.tensor([3, 7])")
        if label.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"label must hold integers, int64 or int32; got {label.dtype}")
        if label.shape != t.shape:
            raise ValueError(
                f"label must hold one class per example, shape {tuple(t.shape)}; got {tuple(label.shape)}"
            )
        if self.training and self.class_dropout > 0:
            dropped = torch.rand(label.shape, device=label.device) < self.class_dropout
            return label.masked_fill(dropped, self.classes)
        return label


def check_images(t: Tensor, x: Tensor, channels: int) -> None:
    """Raise ValueError unless ``x`` is a batch of images with these channels and ``t`` their times."""
    if x.ndim != 4 or x.shape[1] != channels:
        raise ValueError(f"this network takes x of shape (B, {channels}, H, W); got {tuple(x.shape)}")
    if t.shape != x.shape[:1]:
        raise ValueError(f"t must hold one time per example, shape ({x.shape[0]},); got {tuple(t.shape)}")


def check_sizes(**sizes: int) -> None:
    """Raise TypeError or ValueError unless every size is a whole number of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, Integral):
            raise TypeError(f"{name} must be a whole number; got {kind(size)}")
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}")


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless ``value`` is a probability."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} must lie in [0, 1]; got {value}")
