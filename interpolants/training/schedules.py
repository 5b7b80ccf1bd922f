"""Learning rates over a training: warm-up and decay."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class WarmUp:
    r"""A linear warm-up, then constant, or decaying to ``floor`` after the last step by a half cosine.

    As a function of the number of steps made it is the factor of the optimiser's own learning rate.

    Args:
        warm_up: Steps of the warm-up; the first step has the factor 1 / warm_up.
        steps: Steps of the whole training, where the decay ends; None for no decay.
        floor: The factor at the end of the decay, in [0, 1].

    Raises:
        ValueError: When a number is out of range.

    Example:
        >>> [WarmUp(4)(step) for step in (0, 1, 3, 100)]
        [0.25, 0.5, 1.0, 1.0]
        >>> round(WarmUp(0, steps=100)(50), 3)
        0.5
    """

    warm_up: int = 0
    steps: int | None = None
    floor: float = 0.0

    def __post_init__(self) -> None:
        if self.warm_up < 0:
            raise ValueError(f"warm_up must not be negative; got {self.warm_up}")
        if self.steps is not None and self.steps <= self.warm_up:
            raise ValueError(f"the decay needs steps after the {self.warm_up} of warm-up; got {self.steps}")
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor must lie in [0, 1]; got {self.floor}")

    def __call__(self, step: int) -> float:
        """Return the factor for the step after ``step`` have been made."""
        if step < self.warm_up:
            return (step + 1) / self.warm_up
        if self.steps is None:
            return 1.0
        done = min(1.0, (step - self.warm_up) / (self.steps - self.warm_up))
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * done)) / 2
