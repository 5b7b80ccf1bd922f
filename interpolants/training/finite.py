"""A loss that is not finite: noticed, skipped under a limit, or explained."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from interpolants.losses import Draw
from interpolants.training.engine import whole
from interpolants.training.steps import Objective


class NonFiniteLoss(ArithmeticError):
    """The loss, or the clipped gradient, of a training step is a NaN or an infinity.

    Attributes:
        step: The step, from 1.
        statistics: What the minibatch and the weights looked like.
        checkpoint: The last checkpoint written or resumed from; None without one.
    """

    def __init__(
        self, step: int, statistics: Mapping[str, str] | None = None, checkpoint: Path | None = None
    ) -> None:
        self.step = step
        self.statistics = dict(statistics or {})
        self.checkpoint = checkpoint
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = "; ".join(f"{name}: {value}" for name, value in self.statistics.items())
        parts = f" ({parts})" if parts else ""
        kept = "no checkpoint was written" if self.checkpoint is None else f"the last is {self.checkpoint}"
        return f"the loss of step {self.step} is not finite{parts}; of the checkpoints, {kept}"


Explained = Callable[[int, Sequence[Draw], Tensor | None], NonFiniteLoss]


class FiniteGuard:
    """Looks at every step's loss; on an accelerator one step late, so as not to wait for it.

    Args:
        limit: How many steps may be skipped.
        explained: What makes the error of a step, its draws and the norm of its gradient.
    """

    def __init__(self, limit: int, explained: Explained) -> None:
        self._limit = limit
        self._explained = explained
        self._noted: tuple[int, Sequence[Draw], Tensor | None, Tensor, torch.cuda.Event] | None = None
        self.skipped = 0

    def accept(self, step: int, loss: Tensor, norm: Tensor | None, draws: Sequence[Draw]) -> bool:
        """Return whether the weights may be changed.

        Raises:
            NonFiniteLoss: When they must not, and no more steps may be skipped.
        """
        if loss.device.type == "cuda" and self._limit == 0:
            self.settle()
            self._note(step, loss, norm, draws)
            return True
        if math.isfinite(float(loss)) and (norm is None or math.isfinite(float(norm))):
            return True
        self.skipped += 1
        if self.skipped > self._limit:
            raise self._explained(step, draws, norm)
        return False

    def settle(self) -> None:
        """Look at what was noted last.

        Raises:
            NonFiniteLoss: When it was not finite.
        """
        if self._noted is None:
            return
        step, draws, norm, figure, event = self._noted
        self._noted = None
        event.synchronize()
        if not math.isfinite(float(figure)):
            raise self._explained(step, draws, norm)

    def _note(self, step: int, loss: Tensor, norm: Tensor | None, draws: Sequence[Draw]) -> None:
        figure = loss if norm is None else loss + norm
        host = torch.empty((), dtype=figure.dtype, pin_memory=True)
        host.copy_(figure, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._noted = (step, draws, norm, host, event)


def statistics(objective: Objective, draws: Sequence[Draw], norm: Tensor | None) -> dict[str, str]:
    """Return what the minibatches and the weights of a step look like, in words."""
    sizes = [float(whole(p.detach()).abs().max()) for p in objective.parameters() if p.numel()]
    finite = [size for size in sizes if math.isfinite(size)]
    found = {
        "minibatch": _described(draws),
        "largest weight": f"{max(finite, default=math.nan):.4g}",
        "parameters with a NaN or infinity": f"{len(sizes) - len(finite)} of {len(sizes)}",
    }
    if norm is not None:
        found["norm of the gradient"] = f"{float(norm):.4g}"
    return found


def _described(draws: Sequence[Draw]) -> str:
    t = torch.cat([draw.t.detach() for draw in draws])
    words = [f"{len(t)} examples, t in [{float(t.min()):.4g}, {float(t.max()):.4g}]"]
    for name in ("x0", "x1"):
        ends = [getattr(draw, name) for draw in draws]
        broken = sum(int((~x.isfinite()).sum()) for x in ends)
        largest = max(_largest(x) for x in ends)
        words.append(f"{name} with {broken} numbers not finite, otherwise at most {largest:.4g}")
    return ", ".join(words)


def _largest(x: Tensor) -> float:
    return float(torch.nan_to_num(x, 0.0, 0.0, 0.0).abs().max())
