"""Ratios of times, measured interleaved in one run, because a machine is never quiet.

Every round takes one block of each contender, in another order each round; the figure is the median over
rounds of the ratio to the base's block of the same round, with its quartiles. The base stands in the table
twice: how far its second row is from 1 is the noise of the table.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.record import Cell, ratio

Work = Callable[[], object]
AGAIN = " again (noise)"


@dataclass(frozen=True)
class Timings:
    """Seconds of one piece of work, by contender, one for each round.

    Attributes:
        seconds: For each contender, its time in each round.
        base: The contender that ratios are taken to.
    """

    seconds: dict[str, list[float]]
    base: str

    def cell(self, name: str) -> Cell:
        """Return the ratio of a contender to the base."""
        found = [mine / base for mine, base in zip(self.seconds[name], self.seconds[self.base], strict=True)]
        found = found * 2 if len(found) == 1 else found
        low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
        return ratio(middle, low, high, statistics.median(self.seconds[name]), len(self.seconds[name]))


def interleaved(
    contenders: Mapping[str, Work],
    *,
    rounds: int,
    device: torch.device,
    base: str | None = None,
    block_seconds: float = 0.025,
    warm_up: int = 3,
) -> Timings:
    """Return the times of all contenders.

    Args:
        contenders: What each does in one piece of work, by name; the first is the base unless one is named.
            The base is timed once more under its name and ``again (noise)``.
        rounds: How many blocks of each.
        device: Where the work happens: on CUDA its own events are the clock.
        base: The contender that ratios are taken to.
        block_seconds: How long a block lasts at least; short work is repeated within it.
        warm_up: Pieces of work of each before the first round; with none each is tried once all the same.
    """
    base = next(iter(contenders)) if base is None else base
    works = {**contenders, base + AGAIN: contenders[base]}
    counts = {}
    for name, work in works.items():
        for _ in range(warm_up):
            work()
        # Blocks of one contender have the same number of pieces in every round, so that clocks stay out.
        first = _block(work, 2 if warm_up else 1, device) if block_seconds else 1.0
        counts[name] = max(1, round(block_seconds / max(first, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in works}
    names, dice = list(works), random.Random(0)
    for _ in range(rounds):
        # Another order each round: a neighbour's load then falls on all alike, and so does what the one
        # before leaves in the caches, some 3 % of a small step. With turns the base would follow itself.
        dice.shuffle(names)
        for name in names:
            seconds[name].append(_block(works[name], counts[name], device))
    return Timings(seconds, base)


def _block(work: Work, count: int, device: torch.device) -> float:
    """Return the seconds of one piece of work, from a block of so many."""
    if device.type == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)
        start.record()
        for _ in range(count):
            work()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3 / count
    started = time.perf_counter()
    for _ in range(count):
        work()
    return (time.perf_counter() - started) / count
