"""The transformer of images."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint as recomputed

from interpolants.networks._layers import (
    Condition,
    blank,
    check_images,
    check_sizes,
    waves,
    zero_weights,
)

_PUBLISHED = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


class Transformer(nn.Module):
    """A diffusion transformer: patches of an image as tokens (DiT, Peebles and Xie, arXiv 2212.09748).

    Each block normalises, scales and shifts its tokens and weighs what it adds to them by time and class.
    The weights of all blocks start at zero (adaLN-Zero), and so does the last layer, so an untrained network
    answers 0. Time t in [0, 1] is embedded as 256 sines and cosines of 1000 t; positions are fixed.

    Second derivatives and forward-mode derivatives pass through attention only under
    ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``: torch's fast kernels have none.

    Args:
        channels: The channels of ``x``.
        size: The height and width of ``x``, a number when they are equal.
        patch: The side of a patch; must divide height and width.
        width: The size of a token, divisible by 4 and by ``heads``.
        depth: The number of blocks.
        heads: The attention heads.
        out_channels: The channels of the answer; those of ``x`` by default.
        classes: The number of classes, for networks that take a ``label``.
        class_dropout: How often, in training mode, a label is replaced by the null label, as classifier-free
            guidance needs it (arXiv 2207.12598); drawn from torch's global generator, as dropout is.
        checkpoint: Whether backward passes compute the inside of each block again rather than keep it:
            less memory for about a third more time.
        generator: Where the initial weights are drawn from; torch's global generator by default.

    Attributes:
        null_label: The label that means no class, which is ``classes``; None for a network without classes.

    Raises:
        ValueError: When a size is out of range or does not divide another as it must.

    Example:
        >>> network = Transformer(1, (8, 12), width=16, depth=2, heads=2, classes=10)
        >>> label = torch.tensor([3, network.null_label])
        >>> network(torch.zeros(2), torch.zeros(2, 1, 8, 12), label=label).shape
        torch.Size([2, 1, 8, 12])
    """

    position: Tensor

    def __init__(
        self,
        channels: int,
        size: int | tuple[int, int],
        *,
        patch: int = 2,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        out_channels: int | None = None,
        classes: int | None = None,
        class_dropout: float = 0.1,
        checkpoint: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        height, breadth = (size, size) if isinstance(size, int) else size
        check_sizes(channels=channels, out_channels=out_channels, size=min(height, breadth), patch=patch)
        check_sizes(width=width, depth=depth, heads=heads)
        if height % patch or breadth % patch:
            raise ValueError(f"patch must divide height and width; got {patch} for {height} x {breadth}")
        if width % heads or width % 4:
            raise ValueError(f"width must be divisible by heads = {heads} and by 4; got {width}")
        self.channels = channels
        self.size = (height, breadth)
        self.patch = patch
        self.null_label = classes
        self.checkpoint = checkpoint
        self.condition = Condition(width, classes, class_dropout)
        self.first = blank(nn.Linear, channels * patch**2, width)
        self.register_buffer("position", _positions(height // patch, breadth // patch, width))
        self.blocks = nn.ModuleList([_Block(width, heads) for _ in range(depth)])
        self.modulation = blank(nn.Linear, width, 2 * width)
        self.last = blank(nn.Linear, width, out_channels * patch**2)
        self._draw(generator)

    @classmethod
    def named(cls, name: str, channels: int, size: int | tuple[int, int], **options: Any) -> Transformer:
        """Return a transformer of a published size: ``"S/2"``, ``"B/2"``, ``"L/2"``, ``"XL/2"``.

        Args:
            name: The size and, after a slash, the side of a patch.
            channels: The channels of ``x``.
            size: The height and width of ``x``, a number when they are equal.
            **options: Further arguments of :class:`Transformer`.

        Raises:
            ValueError: When the name is none of these.

        Example:
            >>> network = Transformer.named("S/4", channels=4, size=32)
            >>> sum(p.numel() for p in network.parameters()) // 10**6
            32
        """
        letters, _, patch = name.partition("/")
        if letters not in _PUBLISHED or not patch.isdecimal():
            raise ValueError(f"name must be {', '.join(_PUBLISHED)}, a slash and the patch; got {name!r}")
        width, depth, heads = _PUBLISHED[letters]
        return cls(channels, size, patch=int(patch), width=width, depth=depth, heads=heads, **options)

    def forward(self, t: Tensor, x: Tensor, *, label: Tensor | None = None) -> Tensor:
        """Return the network's answer, shape ``(B, out_channels, H, W)``.

        Args:
            t: Times, shape ``(B,)``.
            x: Images, shape ``(B, channels, H, W)`` of the network's size.
            label: Classes, int64 of shape ``(B,)``; None or ``null_label`` for no class.

        Raises:
            ValueError: When a shape does not fit, or a label is given to a network without classes.
        """
        check_images(t, x, self.channels)
        if tuple(x.shape[2:]) != self.size:
            raise ValueError(
                f"this network takes images of height and width {self.size}; got {tuple(x.shape[2:])}"
            )
        tokens = self.first(self._patches(x)) + self.position
        condition = functional.silu(self.condition(t, label))
        for block in self.blocks:
            if self.checkpoint and torch.is_grad_enabled():
                tokens = recomputed(block, tokens, condition, use_reentrant=False)
            else:
                tokens = block(tokens, condition)
        shift, scale = _split(self.modulation(condition), 2)
        return self._image(self.last(_modulated(tokens, shift, scale)))

    def _patches(self, x: Tensor) -> Tensor:
        return rearrange(x, "b c (h p) (w q) -> b (h w) (p q c)", p=self.patch, q=self.patch)

    def _image(self, patches: Tensor) -> Tensor:
        rows, p = self.size[0] // self.patch, self.patch
        return rearrange(patches, "b (h w) (p q c) -> b c (h p) (w q)", h=rows, p=p, q=p)

    def _draw(self, generator: torch.Generator | None) -> None:
        """Draw the weights as DiT does; the tables of time and class with deviation 0.02."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight, generator=generator)
                nn.init.zeros_(layer.bias)
        for module in self.condition.children():
            assert isinstance(module, nn.Linear | nn.Embedding)
            nn.init.normal_(module.weight, std=0.02, generator=generator)
        for block in self.blocks:
            assert isinstance(block, _Block)
            zero_weights(block.modulation)
        zero_weights(self.modulation)
        zero_weights(self.last)


class _Block(nn.Module):
    """Attention and a two-layer network, each modulated by the condition."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.modulation = blank(nn.Linear, width, 6 * width)
        self.attention_first = blank(nn.Linear, width, 3 * width)
        self.attention_last = blank(nn.Linear, width, width)
        self.first = blank(nn.Linear, width, 4 * width)
        self.last = blank(nn.Linear, 4 * width, width)

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        shift, scale, gate, last_shift, last_scale, last_gate = _split(self.modulation(condition), 6)
        tokens = tokens + gate * self._mixed(_modulated(tokens, shift, scale))
        hidden = self.first(_modulated(tokens, last_shift, last_scale))
        answer: Tensor = tokens + last_gate * self.last(functional.gelu(hidden, approximate="tanh"))
        return answer

    def _mixed(self, tokens: Tensor) -> Tensor:
        query, key, value = rearrange(
            self.attention_first(tokens), "b l (three n c) -> three b n l c", three=3, n=self.heads
        )
        mixed = functional.scaled_dot_product_attention(query, key, value)
        answer: Tensor = self.attention_last(rearrange(mixed, "b n l c -> b l (n c)"))
        return answer


def _split(modulation: Tensor, parts: int) -> tuple[Tensor, ...]:
    return modulation.unsqueeze(1).chunk(parts, dim=2)


def _modulated(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return functional.layer_norm(tokens, tokens.shape[-1:], eps=1e-6) * (1 + scale) + shift


def _positions(rows: int, columns: int, width: int) -> Tensor:
    """Return the features of each patch's place, shape ``(rows * columns, width)``: column, then row."""
    # In double precision, where every device has it, so that features are rounded once.
    down, across = torch.meshgrid(
        torch.arange(rows, dtype=torch.float64, device="cpu"),
        torch.arange(columns, dtype=torch.float64, device="cpu"),
        indexing="ij",
    )
    places = torch.cat([waves(axis.flatten(), width // 2) for axis in (across, down)], dim=1)
    return places.to(torch.get_default_device(), torch.get_default_dtype())
