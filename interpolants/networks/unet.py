"""The convolutional network of images."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from interpolants.networks._layers import (
    Condition,
    blank,
    check_images,
    check_probability,
    check_sizes,
    draw_weights,
    zero_weights,
)


class UNet(nn.Module):
    """A U-Net: residual blocks on a pyramid of resolutions, with skip connections across it.

    The design of Dhariwal and Nichol 2021 (arXiv 2105.05233): group norm, SiLU, attention at chosen strides,
    and time and class entering each block as a scale and a shift. Time t in [0, 1] is embedded as 256 sines
    and cosines of 1000 t. The last layer of each block and of the network starts at zero, so an untrained
    network answers 0.

    Second derivatives and forward-mode derivatives pass through attention only under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``: torch's fast kernels have none.

    Args:
        channels: The channels of ``x``.
        out_channels: The channels of the answer; those of ``x`` by default.
        width: The channels of the first level.
        multipliers: The channels of each level in units of ``width``. Every level after the first halves
            the height and the width, so both must be divisible by 2 to the number of levels less one.
        blocks: The residual blocks of a level on the way down; there is one more on the way up.
        attention: The strides with self-attention, out of 1, 2, 4, ...; the coarsest by default, () for none.
        heads: The attention heads; must divide the channels of the levels with attention.
        dropout: The probability of dropout inside each block.
        classes: The number of classes, for networks that take a ``label``.
        class_dropout: How often, in training mode, a label is replaced by the null label, as classifier-free
            guidance needs it (arXiv 2207.12598); drawn from torch's global generator, as dropout is.
        generator: Where the initial weights are drawn from; torch's global generator by default.

    Attributes:
        null_label: The label that means no class, which is ``classes``; None for a network without classes.

    Raises:
        ValueError: When a size is out of range, a stride is not one of the pyramid's, or ``heads`` does not
            divide a level with attention.

    Example:
        >>> network = UNet(1, width=8, multipliers=(1, 2), classes=10)
        >>> label = torch.tensor([3, network.null_label])
        >>> network(torch.zeros(2), torch.zeros(2, 1, 8, 12), label=label).shape
        torch.Size([2, 1, 8, 12])
    """

    def __init__(
        self,
        channels: int,
        *,
        out_channels: int | None = None,
        width: int = 64,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 2,
        attention: Sequence[int] | None = None,
        heads: int = 4,
        dropout: float = 0.0,
        classes: int | None = None,
        class_dropout: float = 0.1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        check_sizes(channels=channels, out_channels=out_channels, width=width, blocks=blocks, heads=heads)
        check_probability("dropout", dropout)
        widths = _widths(width, multipliers)
        self.channels = channels
        self.stride = 2 ** (len(widths) - 1)
        self.null_label = classes
        attended = _heads(widths, (self.stride,) if attention is None else attention, heads)
        stage = partial(_Stage, condition=4 * width, dropout=dropout)
        self.condition = Condition(4 * width, classes, class_dropout)
        self.first = _convolution(channels, width)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        skips = [current := width]
        for level, outputs in enumerate(widths):
            if level > 0:
                self.down.append(_Halved(current))
                skips.append(current)
            for _ in range(blocks):
                self.down.append(stage(current, outputs, attended[level]))
                skips.append(current := outputs)
        self.middle = nn.ModuleList([stage(current, current, attended[-1]), stage(current, current, 0)])
        for level, outputs in reversed(list(enumerate(widths))):
            for left in reversed(range(blocks + 1)):
                doubled = left == 0 and level > 0
                self.up.append(stage(current + skips.pop(), outputs, attended[level], doubled=doubled))
                current = outputs
        self.norm = _norm(current)
        self.last = _convolution(current, out_channels)
        draw_weights(self, generator)
        for layer in self.modules():
            if isinstance(layer, UNet | _Residual | _Attention):
                zero_weights(layer.last)

    def forward(self, t: Tensor, x: Tensor, *, label: Tensor | None = None) -> Tensor:
        """Return the network's answer, shape ``(B, out_channels, H, W)``.

        Args:
            t: Times, shape ``(B,)``.
            x: Images, shape ``(B, channels, H, W)``; H and W divisible by ``stride``.
            label: Classes, int64 of shape ``(B,)``; None or ``null_label`` for no class.

        Raises:
            ValueError: When a shape does not fit, or a label is given to a network without classes.
        """
        check_images(t, x, self.channels)
        if any(size % self.stride for size in x.shape[2:]):
            raise ValueError(
                f"height and width must be divisible by {self.stride}; got {x.shape[2]} x {x.shape[3]}"
            )
        condition = self.condition(t, label)
        skips = [x := self.first(x)]
        for stage in self.down:
            skips.append(x := stage(x, condition))
        for stage in self.middle:
            x = stage(x, condition)
        for stage in self.up:
            x = stage(torch.cat([x, skips.pop()], dim=1), condition)
        answer: Tensor = self.last(functional.silu(self.norm(x)))
        return answer


class _Stage(nn.Module):
    """A residual block, then attention where there are heads, then twice the resolution where asked for."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        heads: int,
        *,
        condition: int,
        dropout: float,
        doubled: bool = False,
    ) -> None:
        super().__init__()
        self.block = _Residual(inputs, outputs, condition, dropout)
        self.attention = _Attention(outputs, heads) if heads else nn.Identity()
        self.doubled = _Doubled(outputs) if doubled else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        answer: Tensor = self.doubled(self.attention(self.block(x, condition)))
        return answer


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, condition: int, dropout: float) -> None:
        super().__init__()
        self.first_norm = _norm(inputs)
        self.first = _convolution(inputs, outputs)
        self.modulation = blank(nn.Linear, condition, 2 * outputs)
        self.last_norm = _norm(outputs)
        self.dropout = nn.Dropout(dropout)
        self.last = _convolution(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else blank(nn.Conv2d, inputs, outputs, kernel_size=1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        hidden = self.last_norm(self.first(functional.silu(self.first_norm(x))))
        modulation = self.modulation(functional.silu(condition))
        scale, shift = rearrange(modulation, "b (two c) -> two b c 1 1", two=2)
        hidden = functional.silu((1 + scale) * hidden + shift)
        answer: Tensor = self.skip(x) + self.last(self.dropout(hidden))
        return answer


class _Attention(nn.Module):
    """Self-attention between the pixels of an image, added to it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = _norm(width)
        self.first = blank(nn.Conv2d, width, 3 * width, kernel_size=1)
        self.last = blank(nn.Conv2d, width, width, kernel_size=1)

    def forward(self, x: Tensor) -> Tensor:
        # The fast kernels want each pixel's channels side by side in memory.
        query, key, value = rearrange(
            self.first(self.norm(x)), "b (three n c) h w -> three b n (h w) c", three=3, n=self.heads
        ).contiguous()
        mixed = functional.scaled_dot_product_attention(query, key, value)
        answer: Tensor = x + self.last(rearrange(mixed, "b n (h w) c -> b (n c) h w", h=x.shape[2]))
        return answer


class _Halved(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = _convolution(width, width, stride=2)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        answer: Tensor = self.convolution(x)
        return answer


class _Doubled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = _convolution(width, width)

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.convolution(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return answer


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    return blank(nn.Conv2d, inputs, outputs, kernel_size=3, stride=stride, padding=1)


def _norm(width: int) -> nn.GroupNorm:
    # At least 4 channels a group: a channel normalised alone forgets its mean, and all at a single pixel.
    most = max(1, min(32, width // 4))
    return nn.GroupNorm(max(groups for groups in range(1, most + 1) if width % groups == 0), width)


def _widths(width: int, multipliers: Sequence[int]) -> list[int]:
    if not multipliers or min(multipliers) < 1:
        raise ValueError(f"multipliers must be one or more numbers of at least 1; got {tuple(multipliers)}")
    return [width * multiplier for multiplier in multipliers]


def _heads(widths: Sequence[int], attention: Sequence[int], heads: int) -> list[int]:
    """Return the heads of each level, 0 where there is no attention."""
    strides = [2**level for level in range(len(widths))]
    if not set(attention) <= set(strides):
        raise ValueError(f"attention must name strides out of {strides}; got {tuple(attention)}")
    for stride, width in zip(strides, widths, strict=True):
        if stride in attention and width % heads:
            raise ValueError(f"heads must divide the {width} channels at stride {stride}; got {heads}")
    return [heads if stride in attention else 0 for stride in strides]
