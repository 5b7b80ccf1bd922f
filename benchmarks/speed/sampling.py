"""What the tables of samplers share: the contenders that can run, and a row for each that was named."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from benchmarks.record import NOISE, Cell, Table, missing
from benchmarks.settings import Settings
from benchmarks.timing import AGAIN, Timings, Work, interleaved

BASE = "by hand"

Sampling = Callable[[], Tensor]
"""Carries the points and returns where they arrive."""

Contender = tuple[Sampling | str, str]
"""What runs, or why nothing does, and the kind of its row."""


def fill(
    table: Table,
    contenders: Mapping[str, Contender],
    settings: Settings,
    *,
    rounds: int,
    extra: Mapping[str, Mapping[str, Cell]] | None = None,
) -> dict[str, Tensor]:
    """Time the contenders, the first of which is the base, and add a row for each.

    Args:
        table: Its columns say ``to NAME`` for each contender that ratios are taken to; further ones are
            filled from ``extra``.
        contenders: By their labels.
        settings: The device, and the rounds when they were asked for.
        rounds: Otherwise so many.
        extra: More cells, by label.

    Returns:
        Where the points arrived, by label, of those that ran.
    """
    works: dict[str, Work] = {}
    ends: dict[str, Tensor] = {}
    problems: dict[str, str] = {}
    for name, (work, _) in contenders.items():
        if isinstance(work, str):
            problems[name] = work
            continue
        try:
            ends[name] = work()
        except (RuntimeError, ImportError) as error:
            problems[name] = str(error).splitlines()[0]
        else:
            works[name] = work
    times = interleaved(works, rounds=settings.rounds or rounds, device=settings.device, warm_up=1)
    bases = [column.removeprefix("to ") for column in table.columns if column.startswith("to ")]
    for name, kind in _rows(contenders):
        cells: dict[str, Cell] = {table.columns[0]: missing(problems.get(name, "not measured"))}
        if name in times.seconds:
            cells = {f"to {base}": Timings(times.seconds, base).cell(name) for base in bases}
        table.add(name, {**cells, **(extra or {}).get(name, {})}, kind)
    return ends


def _rows(contenders: Mapping[str, Contender]) -> list[tuple[str, str]]:
    first, *others = ((name, kind) for name, (_, kind) in contenders.items())
    return [first, (first[0] + AGAIN, NOISE), *others]
