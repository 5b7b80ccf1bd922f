"""Results as Markdown: tables with their errors, plots, and the blocks that README and docs include.

A file asks for a table by a pair of comments, between which the report writes it::

    <!-- table: ode/euler -->
    <!-- end -->
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import RESULTS
from benchmarks.record import FLOOR, LIMIT, NOISE, OURS, PEER, PUBLISHED, Cell, Result, Table, read

ROOT = Path(__file__).parent.parent
_BLOCK = re.compile(r"(<!-- table: ([\w-]+)/([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_NO_NUMBER = "–"


def markdown(table: Table) -> str:
    """Return a table as Markdown, with its title above and its note and sources below."""
    sources: list[str] = []
    best = {column: _best(table, column) for column in table.columns}
    head = ["", *table.columns]
    lines = [f"**{table.title}**", "", _line(head), _line(["---"] * len(head))]
    for row in table.rows:
        label = f"*{row.label}*" if row.kind in (FLOOR, LIMIT, NOISE, PUBLISHED) else row.label
        cells = []
        for column in table.columns:
            text = _text(row.cells.get(column, {"kind": "missing", "why": ""}), table.digits, sources)
            cells.append(f"**{text}**" if row.label in best[column] else text)
        lines.append(_line([label, *cells]))
    notes = [table.note] if table.note else []
    notes += [f"[{k}] {source}" for k, source in enumerate(sources, start=1)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)])


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _text(cell: Cell, digits: int | None, sources: list[str]) -> str:
    kind = cell["kind"]
    if kind == "missing":
        return f"{_NO_NUMBER} {cell['why']}".strip() if cell["why"] else ""
    if kind == "plain":
        return f"{cell['value']:,}" if isinstance(cell["value"], int) else str(cell["value"])
    if kind == "ratio":
        low, high = cell["quartiles"]
        return f"{cell['value']:.2f} ({low:.2f}–{high:.2f})"
    if kind == "published":
        number = _reference(cell, sources)
        spread = "" if cell["spread"] is None else f" ± {cell['spread']:g}"
        return f"{cell['value']:g}{spread} [{number}]"
    if cell["value"] is None:
        return "not finite"
    return with_error(cell["value"], cell.get("standard_error"), digits)


def _reference(cell: Cell, sources: list[str]) -> int:
    text = cell["source"] + (f" (± is the {cell['of']})" if cell["of"] else "")
    if text not in sources:
        sources.append(text)
    return sources.index(text) + 1


def with_error(value: float, error: float | None, digits: int | None = None) -> str:
    """Return a number with its standard error, to two digits of the error unless told.

    Example:
        >>> with_error(0.123456, 0.0123), with_error(0.12345, None), with_error(1.2e-7, 3e-9)
        ('0.123 ± 0.012', '0.123', '(1.200 ± 0.030)e-07')
    """
    size = max(abs(value), error or 0.0)
    if size and not 1e-3 <= size < 1e5 and digits is None:
        power = math.floor(math.log10(size))
        scaled = with_error(value / 10**power, None if error is None else error / 10**power)
        return f"({scaled})e{power:+03d}" if error is not None else f"{scaled}e{power:+03d}"
    if digits is None:
        leading = error / 10 if error else size / 100
        digits = min(6, max(0, -math.floor(math.log10(leading)))) if leading else 3
    if error is None:
        return f"{value:,.{digits}f}"
    return f"{value:,.{digits}f} ± {error:,.{digits}f}"


def _best(table: Table, column: str) -> set[str]:
    """Return the rows that nobody beats by more than two standard errors, if there are rows to be beaten."""
    if table.lower_is_better is None:
        return set()
    found = {}
    for row in table.rows:
        cell = row.cells.get(column, {})
        if row.kind in (OURS, PEER) and cell.get("kind") == "measured" and cell["value"] is not None:
            found[row.label] = (cell["value"], cell.get("standard_error") or 0.0)
        elif row.kind in (OURS, PEER) and cell.get("kind") == "ratio":
            found[row.label] = (cell["value"], (cell["quartiles"][1] - cell["quartiles"][0]) / 2)
    if len(found) < 2:
        return set()
    sign = 1 if table.lower_is_better else -1
    value, error = min(found.values(), key=lambda pair: sign * pair[0])
    near = {
        label
        for label, (other, spread) in found.items()
        if sign * (other - value) <= 2 * math.hypot(error, spread)
    }
    return near if len(near) < len(found) else set()


def page(about: dict[str, Any], result: Result) -> str:
    """Return the page of one result."""
    hardware = about["gpu"] or f"{about['processor']}, {about['cores']} cores, {about['threads']} thread(s)"
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    lines = [f"# {about['benchmark']}", "", f"{about['summary'][0].upper()}{about['summary'][1:]}.", ""]
    for path, message in about["breaks_a_promise"].items():
        lines += [f"`{path}` breaks a promise of an interpolant: {' '.join(message.split())}", ""]
    for table in result.tables:
        lines += [markdown(table), ""]
    for plot in result.plots:
        lines += [f"![{plot.title}]({about['benchmark']}-{plot.name}.png)", ""]
    lines += [
        f"`{about['command']}`, {about['date']}, commit {about['commit']}, {about['seconds']:,.0f} s on "
        f"{hardware}, Python {about['python']}, torch {about['torch']}, {versions}.",
        "",
    ]
    return "\n".join(lines)


def write_report(results: Path, out: Path, *, check: bool = False) -> int:
    """Write a page and its plots for each result, the index, and the tables that README asks for.

    Args:
        results: The folder of results.
        out: The folder of the pages.
        check: Whether to write nothing and return 1 when a text is out of date or a picture missing.
    """
    texts = {}
    pictures = {}
    for path, about, result in found(results):
        texts[out / f"{path.stem}.md"] = page(about, result)
        for plot in result.plots:
            pictures[out / f"{path.stem}-{plot.name}.png"] = plot
    texts[out / "index.md"] = index(results)
    # Somebody's own results, or a smaller budget's, are not for README.
    for path in asking() if results.resolve() == RESULTS.resolve() else []:
        texts[path] = filled(path.read_text(), results)
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text() != text]
    if check:
        stale += [path for path in pictures if not path.is_file()]
        for path in stale:
            print(f"{path} is out of date: python -m benchmarks report", file=sys.stderr)
        return 1 if stale else 0
    from benchmarks.pictures import draw

    out.mkdir(parents=True, exist_ok=True)
    for path in stale:
        path.write_text(texts[path])
    for path, plot in pictures.items():
        draw(plot, path)
    print(f"{len(texts)} pages, {len(pictures)} plots, {len(stale)} texts changed")
    return 0


def asking() -> list[Path]:
    """Return the files that ask for tables."""
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
    return [path for path in files if path.is_file() and _BLOCK.search(path.read_text())]


def filled(text: str, results: Path) -> str:
    """Return a text with the tables that it asks for.

    Raises:
        ValueError: When there is no such table.
    """

    def block(match: re.Match[str]) -> str:
        name, wanted = match.group(2), match.group(3)
        path = results / f"{name}.json"
        if not path.is_file():
            raise ValueError(f"a table of {name} is asked for, and there is no {path}")
        about, result = read(path)
        tables = {table.name: table for table in result.tables}
        if wanted not in tables:
            raise ValueError(f"{path} has no table {wanted!r}; it has {', '.join(tables)}")
        return f"{match.group(1)}{markdown(tables[wanted])}\n\n`{about['command']}`\n{match.group(5)}"

    return _BLOCK.sub(block, text)


def index(results: Path) -> str:
    """Return the page that lists all others."""
    lines = ["# Benchmarks", "", "| benchmark | what | seconds | on |", "| --- | --- | --- | --- |"]
    for path, about, _ in found(results):
        where = about["gpu"] or about["device"]
        what = about["summary"]
        lines.append(f"| [{path.stem}]({path.stem}.md) | {what} | {about['seconds']:,.0f} | {where} |")
    return "\n".join([*lines, ""])


def found(results: Path) -> Iterator[tuple[Path, dict[str, Any], Result]]:
    """Yield the results of the suite in a folder; the longer studies' files are passed over."""
    for path in sorted(results.glob("*.json")):
        try:
            yield path, *read(path)
        except ValueError:
            continue


# Fewer rounds have no quartiles to speak of.
_ENOUGH_ROUNDS = 5


def differences(first: Path, second: Path, alarm: float) -> tuple[list[str], int]:
    """Return where two folders of results differ by more than their errors allow, and how many were compared.

    Means are compared by Welch's test, so that two seeds are not taken for certain, at ``alarm`` divided by
    the number of figures: the chance of one line in all when nothing differs. Ratios of five rounds or more
    differ when their quartiles, widened to twice their distance from the median, do not meet. A row on one
    side only, a number that is not finite on one, and words that changed are differences too; a cell that is
    missing for a reason is none.

    Raises:
        ValueError: When the folders have no figure in common, or are of different budgets.
    """
    _check_alike(first, second)
    ours, theirs = (dict(_cells(folder)) for folder in (first, second))
    common = [name for name in ours if name in theirs and _comparable(ours[name], theirs[name])]
    if not common:
        raise ValueError(f"{first} and {second} have no figure in common")
    benchmarks = {name.partition("/")[0] for name in ours} & {name.partition("/")[0] for name in theirs}
    alone = sorted(name for name in set(ours) ^ set(theirs) if name.partition("/")[0] in benchmarks)
    lines = [f"{name}: on one side only" for name in alone]
    for name in sorted(set(ours) & set(theirs)):
        one, other = ours[name], theirs[name]
        apart = name in common and _apart(one, other, alarm / len(common))
        # A cell that is missing says why.
        reasoned = "missing" in (one["kind"], other["kind"])
        if apart or not (reasoned or _said(one) == _said(other)):
            lines.append(f"{name}: {_text(one, None, [])} and {_text(other, None, [])}")
    return lines, len(common)


def _check_alike(first: Path, second: Path) -> None:
    budgets = [
        {path.stem: about.get("budget") for path, about, _ in found(folder)} for folder in (first, second)
    ]
    for name in set(budgets[0]) & set(budgets[1]):
        if budgets[0][name] != budgets[1][name]:
            raise ValueError(f"{name} was run at the budgets {budgets[0][name]} and {budgets[1][name]}")


def _said(cell: Cell) -> tuple[object, ...]:
    """Return what of a cell is no number with an error: whether there is one, or its word."""
    if cell["kind"] == "plain" and isinstance(cell["value"], str):
        return ("plain", cell["value"])
    return (cell["kind"], cell.get("value") is None)


def _comparable(one: Cell, other: Cell) -> bool:
    if one["kind"] == other["kind"] == "ratio":
        return min(one["rounds"], other["rounds"]) >= _ENOUGH_ROUNDS
    return _has_error(one) and _has_error(other)


def _cells(folder: Path) -> Iterator[tuple[str, Cell]]:
    for path, _, result in found(folder):
        for table in result.tables:
            for row in table.rows:
                for column, cell in row.cells.items():
                    yield f"{path.stem}/{table.name}: {row.label}, {column}", cell


def _has_error(cell: Cell) -> bool:
    return cell["kind"] == "measured" and cell["value"] is not None and cell["standard_error"] is not None


def _apart(one: Cell, other: Cell, chance: float) -> bool:
    if one["kind"] == "ratio":
        low, high = zip(_widened(one), _widened(other), strict=True)
        return max(low) > min(high)
    from scipy.stats import t as student

    distance = abs(one["value"] - other["value"])
    if distance <= 1e-6 * max(abs(one["value"]), abs(other["value"])):  # Rounding is no difference.
        return False
    squares = [cell["standard_error"] ** 2 for cell in (one, other)]
    if sum(squares) == 0:
        return True
    # An estimate whose error comes from a sample of many points has no seeds to count.
    freedoms = [cell["seeds"] - 1 if cell["seeds"] > 1 else 1000 for cell in (one, other)]
    freedom = sum(squares) ** 2 / sum(s**2 / f for s, f in zip(squares, freedoms, strict=True))
    return bool(distance > student.isf(chance / 2, freedom) * math.sqrt(sum(squares)))


def _widened(cell: Cell) -> tuple[float, float]:
    low, high = cell["quartiles"]
    return 2 * low - cell["value"], 2 * high - cell["value"]
