"""What a run of the suite was asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch

from interpolants import Interpolant, InterpolantError, check_interpolant
from interpolants.config import Config, interpolant_of

BUDGETS = ("smoke", "small", "full")
T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """What every benchmark is given.

    Args:
        device: Where to compute.
        budget: smoke (each benchmark in seconds), small, or full (what the committed tables are of).
        seeds: How many seeds; None for the benchmark's own number at this budget.
        first_seed: The first of them: another one gives an independent run.
        interpolants: Names of paths, as the command line takes them; empty for the benchmark's own list.
        peers: Names of the peers to run beside (:mod:`benchmarks.peers`).
        rounds: Interleaved rounds of a timing; None for the budget's.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    budget: str = "small"
    seeds: int | None = None
    first_seed: int = 0
    interpolants: tuple[str, ...] = ()
    peers: tuple[str, ...] = ()
    rounds: int | None = None

    def pick(self, smoke: T, small: T, full: T) -> T:
        """Return the value for this budget."""
        return {"smoke": smoke, "small": small, "full": full}[self.budget]

    def seed_list(self, smoke: int, small: int, full: int) -> list[int]:
        """Return the seeds: as many as were asked for, or the benchmark's own number at this budget."""
        count = self.pick(smoke, small, full) if self.seeds is None else self.seeds
        return list(range(self.first_seed, self.first_seed + count))

    def paths(self, default: Sequence[str]) -> dict[str, Interpolant]:
        """Return the interpolants by name: those asked for, or the benchmark's own list."""
        return {name: interpolant_named(name) for name in self.interpolants or default}


def interpolant_named(name: str) -> Interpolant:
    """Return an interpolant by name: a path, or a path and a latent noise as ``linear+brownian``.

    Paths: linear, trigonometric, encoding-decoding, variance-preserving, or ``package.module:Mine`` (a class
    that needs no arguments, or an instance). Latent noise: brownian, quadratic, sine-squared.

    Raises:
        ValueError: When there is none of that name.
    """
    path, plus, gamma = name.partition("+")
    return interpolant_of(Config(interpolant=path, gamma=gamma) if plus else Config(interpolant=path))


def conformance(interpolant: Interpolant) -> str:
    """Return which promises an interpolant breaks, "" for none: the tables show it all the same."""
    try:
        check_interpolant(interpolant)
    except InterpolantError as error:
        return str(error)
    return ""
