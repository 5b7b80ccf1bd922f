"""What a sampler returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Points carried by a field.

    Attributes:
        t: The times at which ``x`` is given, shape ``(T,)``, decreasing when run in reverse.
        x: The points at these times, shape ``(T, B, *D)``.
        evaluations: How often the field was evaluated on the whole batch.
    """

    t: Tensor
    x: Tensor
    evaluations: int

    @property
    def final(self) -> Tensor:
        """The points at the last time, shape ``(B, *D)``."""
        return self.x[-1]
