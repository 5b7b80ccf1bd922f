"""What the device can do at most, by a large product and a large copy, and how much of it some work uses."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.timing import Work, interleaved


@dataclass(frozen=True)
class Peak:
    """What was measured of a device.

    Attributes:
        operations: Floating-point operations a second in a large product of matrices of single precision,
            with the device's own shortcut for it (TF32) as convolutions have it.
        bytes: Bytes read and written a second in a large copy.
    """

    operations: float
    bytes: float


@dataclass(frozen=True)
class Demand:
    """What some work asks of a device.

    Attributes:
        operations: Floating-point operations of its products and convolutions.
        bytes: Bytes of every operation's arguments and results, each once: what it would move without caches.
    """

    operations: int
    bytes: int


def measured_peak(device: torch.device, *, rounds: int = 5) -> Peak:
    """Return the peak of a device."""
    side, length = (8192, 2**30) if device.type == "cuda" else (512, 2**22)
    a, b, c = (torch.ones(side, side, device=device) for _ in range(3))
    source, target = (torch.ones(length // 4, device=device) for _ in range(2))
    works: dict[str, Work] = {
        "product": lambda: torch.mm(a, b, out=c),
        "copy": lambda: target.copy_(source),
    }
    with _shortcuts():
        times = interleaved(works, rounds=rounds, device=device)
    product, copy = (min(times.seconds[name]) for name in works)
    return Peak(2 * side**3 / product, 2 * length / copy)


def demand(work: Work) -> Demand:
    """Return what one piece of work asks for."""
    with FlopCounterMode(display=False) as operations:
        work()
    with _Traffic() as traffic:
        work()
    return Demand(operations.get_total_flops(), traffic.bytes)


@contextmanager
def _shortcuts() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


class _Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = func(*args, **(kwargs or {}))
        if not func.is_view:
            self.bytes += sum(_bytes(x) for x in tree_leaves((args, kwargs, answer)) if isinstance(x, Tensor))
        return answer


def _bytes(x: Tensor) -> int:
    # What is expanded lies there once.
    return math.prod(n for n, step in zip(x.shape, x.stride(), strict=True) if step) * x.element_size()
