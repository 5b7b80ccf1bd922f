"""The suite's smallest budget runs, and a user's own interpolant stands in every accuracy table."""

import math

import pytest

pytest.importorskip("matplotlib", reason="the images are drawn from glyphs")
pytest.importorskip("sklearn", reason="the benchmarks take its digits and sets")

from benchmarks.catalogue import CATALOGUE
from benchmarks.record import OURS, PUBLISHED
from benchmarks.report import markdown
from benchmarks.settings import Settings

MINE = "benchmarks.own:Squares"


def numbers(cells):
    return [cell["value"] for cell in cells if cell["kind"] in ("measured", "ratio", "published")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [b.name for b in CATALOGUE.values() if b.group == "accuracy"])
def test_a_users_interpolant_stands_in_every_accuracy_table(name):
    result = CATALOGUE[name].run(Settings(budget="smoke", seeds=2, interpolants=(MINE,)))
    assert result.tables
    for table in result.tables:
        mine = [row for row in table.rows if MINE in row.label]
        assert mine, f"{table.name} has no row of {MINE}"
        found = [value for row in mine for value in numbers(row.cells.values())]
        assert found
        assert all(value is not None and math.isfinite(value) for value in found)
        for row in table.rows:
            for cell in row.cells.values():
                assert (
                    cell["kind"] != "measured" or cell["value"] is None or cell["standard_error"] is not None
                )
                if row.kind == PUBLISHED and cell["kind"] == "published":
                    assert cell["source"]
        assert MINE in markdown(table)


# A dozen fresh interpreters that import torch are left to `make bench`.
TIMED = [b.name for b in CATALOGUE.values() if b.group == "speed" and b.name != "import_time"]


@pytest.mark.slow
@pytest.mark.parametrize("name", TIMED)
def test_every_speed_table_has_its_noise_and_a_row_of_ours(name):
    result = CATALOGUE[name].run(Settings(budget="smoke", rounds=1))
    for table in result.tables:
        assert any("again (noise)" in row.label for row in table.rows)
        assert any(row.kind == OURS for row in table.rows)
