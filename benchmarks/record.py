"""What a benchmark returns and what lies in results/NAME.json: tables and plots of numbers with their errors.

A table has rows and columns; a cell is one of

* :func:`measured`: a mean over seeds (or rounds) with its standard error;
* :func:`ratio`: a median over interleaved rounds with its quartiles;
* :func:`published`: somebody's number, with where it was read;
* :func:`missing`: why there is no number ("not measured", "torchcfm is not installed");
* :func:`plain`: a count or a word.

Every kind is a dict of plain values, so a file can be read without this package.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Cell = dict[str, Any]

OURS, PEER, FLOOR, LIMIT, PUBLISHED, NOISE = "ours", "peer", "floor", "limit", "published", "noise"
"""What a row is; the report sets floors, limits and published rows apart."""


def measured(values: Iterable[float]) -> Cell:
    """Return the mean of one value for each seed, with its standard error (None for a single seed)."""
    found = [float(value) for value in values]
    if not all(map(math.isfinite, found)):
        return {"kind": "measured", "value": None, "standard_error": None, "seeds": len(found), "values": []}
    error = statistics.stdev(found) / math.sqrt(len(found)) if len(found) > 1 else None
    return {
        "kind": "measured",
        "value": statistics.fmean(found),
        "standard_error": error,
        "seeds": len(found),
        "values": found,
    }


def estimated(value: float, standard_error: float | None, groups: int = 1) -> Cell:
    """Return one estimate whose standard error is known otherwise, as over the points of a sample.

    Args:
        value: The estimate.
        standard_error: Its standard error.
        groups: How many groups of points the error was taken over, as by a jackknife; 1 for very many.
    """
    finite = math.isfinite(value)
    return {
        "kind": "measured",
        "value": float(value) if finite else None,
        "standard_error": float(standard_error) if finite and standard_error is not None else None,
        "seeds": groups,
    }


def ratio(value: float, low: float, high: float, seconds: float, rounds: int) -> Cell:
    """Return a median ratio with its quartiles, and the median time of one piece of work."""
    return {
        "kind": "ratio",
        "value": value,
        "quartiles": [low, high],
        "seconds": seconds,
        "rounds": rounds,
    }


def published(value: float, spread: float | None, source: str, *, of: str = "") -> Cell:
    """Return somebody's number.

    Args:
        value: As printed there.
        spread: What is printed behind the sign ±, None without.
        source: Where it was read, with the section or figure.
        of: What the spread is, as "standard deviation over 10 runs".
    """
    return {"kind": "published", "value": value, "spread": spread, "source": source, "of": of}


def missing(why: str = "not measured") -> Cell:
    """Return a cell without a number."""
    return {"kind": "missing", "why": why}


def plain(value: float | int | str) -> Cell:
    """Return a count or a word, which has no error."""
    return {"kind": "plain", "value": value}


@dataclass
class Row:
    """A row: its label, what it is, and its cells by the name of their column."""

    label: str
    cells: dict[str, Cell]
    kind: str = OURS


@dataclass
class Table:
    """A table.

    Attributes:
        name: Short and unique in its result: what README's and docs' markers ask for.
        title: One line that says what the numbers are, with their unit.
        columns: The names of the columns, in order.
        rows: The rows.
        note: What a reader must know: protocol, sample size, which floor.
        digits: Digits behind the point; None for three that count.
        lower_is_better: Whether the smallest of ours and the peers' is printed bold; None for no bold.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    note: str = ""
    digits: int | None = None
    lower_is_better: bool | None = None

    def add(self, label: str, cells: Mapping[str, Cell], kind: str = OURS) -> None:
        """Add a row.

        Raises:
            ValueError: When a cell belongs to no column.
        """
        unknown = set(cells) - set(self.columns)
        if unknown:
            raise ValueError(f"the table {self.name!r} has no column {', '.join(sorted(unknown))}")
        self.rows.append(Row(label, dict(cells), kind))


@dataclass
class Series:
    """A curve: points with standard errors (None where there are none)."""

    label: str
    x: list[float]
    y: list[float]
    error: list[float] | None = None
    kind: str = OURS


@dataclass
class Plot:
    """A figure of curves.

    Attributes:
        name: Short and unique in its result.
        title: One line.
        x: What the horizontal axis is, with its unit.
        y: What the vertical axis is, with its unit.
        series: The curves.
        log: Which axes are logarithmic: "", "x", "y" or "xy".
        floor: A horizontal line: the two-sample floor, or a bound that cannot be passed.
        floor_label: What that line is.
    """

    name: str
    title: str
    x: str
    y: str
    series: list[Series] = field(default_factory=list)
    log: str = "xy"
    floor: float | None = None
    floor_label: str = ""


@dataclass
class Result:
    """What a benchmark found."""

    tables: list[Table]
    plots: list[Plot] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for json."""
        return asdict(self)


def read(path: Path) -> tuple[dict[str, Any], Result]:
    """Return what stands around a result in its file, and the result.

    Raises:
        ValueError: When the file is no result of the suite.
    """
    content = json.loads(path.read_text())
    if "tables" not in content or "benchmark" not in content:
        raise ValueError(f"{path} is no result of the suite")
    tables = [
        Table(**{**table, "rows": [Row(**row) for row in table["rows"]]}) for table in content.pop("tables")
    ]
    plots = [
        Plot(**{**plot, "series": [Series(**series) for series in plot["series"]]})
        for plot in content.pop("plots")
    ]
    return content, Result(tables, plots, content.pop("settings"))
