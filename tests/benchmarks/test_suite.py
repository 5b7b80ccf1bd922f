"""The suite's own machinery: its command line, files, tables and comparisons."""

import json
import time

import pytest
import torch

from benchmarks import __main__ as suite
from benchmarks import catalogue, machine
from benchmarks.catalogue import Benchmark
from benchmarks.record import (
    FLOOR,
    PEER,
    PUBLISHED,
    Plot,
    Result,
    Series,
    Table,
    estimated,
    measured,
    missing,
    plain,
    published,
    ratio,
    read,
)
from benchmarks.report import differences, filled, markdown, with_error, write_report
from benchmarks.settings import Settings, interpolant_named
from benchmarks.timing import AGAIN, interleaved
from interpolants import Brownian, Linear, SpatiallyLinear, Trigonometric


class Wrong(SpatiallyLinear):
    """A path whose written derivative is 5 % off."""

    def alpha(self, t):
        return 1 - t

    def beta(self, t):
        return t

    def beta_derivative(self, t):
        return torch.full_like(t, 1.05)


def table():
    made = Table("errors", "Error", ["W2", "steps"], lower_is_better=True)
    made.add("ours", {"W2": measured([1.0, 1.2, 1.1]), "steps": plain(20_000)})
    made.add("peer", {"W2": measured([2.0, 2.2, 2.1]), "steps": missing("peer is not installed")}, PEER)
    made.add("two samples", {"W2": estimated(0.5, 0.01)}, FLOOR)
    made.add("paper", {"W2": published(0.12, 0.045, "a paper, Figure 1", of="deviation")}, PUBLISHED)
    return made


@pytest.fixture
def toys(monkeypatch):
    """Benchmarks that take no time: one that finds something and one that fails."""

    class Toy(Benchmark):
        def run(self, settings):
            if self.name == "broken":
                raise RuntimeError("no such luck")
            curve = Series("ours", [1.0, 2.0], [1.0, 0.5], [0.1, 0.1])
            return Result([table()], [Plot("curve", "A curve", "steps", "error", [curve])])

    toys = {name: Toy(name, "accuracy", name, f"what {name} is") for name in ("broken", "fine")}
    monkeypatch.setattr(suite, "CATALOGUE", toys)
    return toys


def test_a_benchmark_that_fails_does_not_stop_the_others(toys, tmp_path, capsys):
    assert suite.main(["run", "all", "--budget", "smoke", "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["fine.json"]
    captured = capsys.readouterr()
    assert "broken failed: RuntimeError: no such luck" in captured.err
    assert "1.100 ± 0.058" in captured.out


def test_a_result_says_how_it_came_about(toys, tmp_path):
    suite.main(
        ["run", "fine", "--budget", "smoke", "--seeds", "3", "--out", str(tmp_path), "--compare", "none"]
    )
    about, result = read(tmp_path / "fine.json")
    assert about["command"] == "python -m benchmarks run fine --budget smoke --seeds 3 --compare none"
    assert {"date", "commit", "processor", "python", "torch", "versions", "seconds", "device"} <= about.keys()
    assert about["gpu"] is None
    assert result.tables == [table()]
    assert result.plots[0].series[0].error == [0.1, 0.1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "nothing"], "there is no benchmark 'nothing'"),
        (["run", "fine", "--interpolant", "cubic"], "unknown interpolant 'cubic'"),
        (["run", "fine", "--interpolant", "linear+pink"], "unknown gamma 'pink'"),
        (["run", "fine", "--interpolant", "no.such:Thing"], "cannot make the interpolant no.such:Thing"),
        (["run", "fine", "--compare", "nobody"], "--compare knows torchcfm"),
        (["run", "fine", "--device", "cuda:99"], "--device cuda:99 cannot be used here"),
        (["compare", "nowhere", "nowhere"], "no figure in common"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(toys, words, message, capsys):
    assert suite.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["run", "fine", "--seeds", "0"], ["run", "fine", "--budget", "huge"], []])
def test_what_the_parser_refuses_has_the_status_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        suite.main(words)
    assert stop.value.code == 2


def test_the_list_names_every_benchmark_study_and_peer(capsys):
    assert suite.main(["list"]) == 0
    listed = capsys.readouterr().out
    for name in (*catalogue.CATALOGUE, *suite.STUDIES, "torchcfm", "flow_matching"):
        assert f"  {name} " in listed


def test_every_study_of_the_list_is_a_module():
    for name in suite.STUDIES:
        assert (machine.RESULTS.parent / f"{name}.py").is_file()


def test_every_benchmark_of_the_catalogue_is_a_module():
    for benchmark in catalogue.CATALOGUE.values():
        assert (machine.RESULTS.parent / benchmark.group / f"{benchmark.module}.py").is_file()


def test_a_wrong_interpolant_is_shown_with_a_warning(toys, tmp_path, capsys):
    name = f"{__name__}:Wrong"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("sys").modules, __name__, __import__("sys").modules[__name__])
        suite.main(["run", "fine", "--interpolant", f"linear,{name}", "--out", str(tmp_path)])
    assert "breaks a promise" in capsys.readouterr().err
    about, _ = read(tmp_path / "fine.json")
    assert list(about["breaks_a_promise"]) == [name]


def test_the_rows_of_a_wrong_interpolant_are_marked(monkeypatch, tmp_path):
    name = "benchmarks.own:FivePercentOff"

    class Toy(Benchmark):
        def run(self, settings):
            made = Table("t", "T", ["error"])
            for path in settings.interpolants:
                made.add(f"{path}, euler", {"error": measured([1.0, 2.0])})
            return Result([made])

    monkeypatch.setattr(suite, "CATALOGUE", {"toy": Toy("toy", "accuracy", "toy", "a toy")})
    suite.main(["run", "toy", "--interpolant", f"linear,{name}", "--out", str(tmp_path)])
    labels = [row.label for row in read(tmp_path / "toy.json")[1].tables[0].rows]
    assert labels == ["linear, euler", f"{name}, euler [WRONG: breaks a promise]"]


def test_interpolants_are_named_by_path_and_latent_noise():
    assert interpolant_named("linear") == Linear()
    assert interpolant_named("trigonometric+brownian") == Trigonometric(gamma=Brownian())
    settings = Settings(interpolants=("linear",))
    assert list(settings.paths(["trigonometric"])) == ["linear"]
    assert list(Settings().paths(["trigonometric"])) == ["trigonometric"]


def test_seeds_are_those_asked_for_or_the_budgets():
    assert Settings(budget="smoke").seed_list(2, 3, 10) == [0, 1]
    assert Settings(budget="full", first_seed=5).seed_list(2, 3, 4) == [5, 6, 7, 8]
    assert Settings(budget="full", seeds=1).seed_list(2, 3, 4) == [0]


def test_a_measured_cell_is_the_mean_with_its_standard_error():
    cell = measured([1.0, 2.0, 3.0])
    # The deviation of 1, 2, 3 is 1; of their mean it is 1 / sqrt(3).
    assert (cell["value"], cell["seeds"]) == (2.0, 3)
    assert cell["standard_error"] == pytest.approx(3**-0.5)
    assert measured([4.0])["standard_error"] is None
    assert measured([1.0, float("nan")])["value"] is None


def test_a_table_refuses_a_cell_without_a_column():
    with pytest.raises(ValueError, match="no column W3"):
        table().add("ours", {"W3": plain(1)})


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0.123456, 0.0123, "0.123 ± 0.012"),
        (1234.5, 12.0, "1,234 ± 12"),
        (0.0, 0.0, "0.000"),
        (0.0, None, "0.000"),
        (1.2e-7, 3e-9, "(1.200 ± 0.030)e-07"),
        (-2.5e6, None, "-2.50e+06"),
        (6.232, 0.186, "6.23 ± 0.19"),
        (0.0376, None, "0.0376"),
        (1e-9, 2.0, "0.0 ± 2.0"),
    ],
)
def test_numbers_are_printed_to_two_digits_of_their_error(value, error, text):
    assert with_error(value, error) in (text, f"{text} ± 0.000")


def test_a_table_is_printed_with_its_errors_sources_and_best():
    lines = markdown(table()).splitlines()
    assert lines[0] == "**Error**"
    assert lines[2:6] == [
        "|  | W2 | steps |",
        "| --- | --- | --- |",
        "| ours | **1.100 ± 0.058** | 20,000 |",
        "| peer | 2.100 ± 0.058 | – peer is not installed |",
    ]
    assert lines[6:8] == ["| *two samples* | 0.500 ± 0.010 |  |", "| *paper* | 0.12 ± 0.045 [1] |  |"]
    assert lines[-1] == "[1] a paper, Figure 1 (± is the deviation)"


def test_nobody_is_best_when_all_are_within_their_errors():
    made = Table("errors", "Error", ["W2"], lower_is_better=True)
    made.add("one", {"W2": measured([1.0, 1.2])})
    made.add("other", {"W2": measured([1.05, 1.25])})
    assert "**1" not in markdown(made)


def test_the_report_writes_pages_and_plots_and_then_finds_them_up_to_date(toys, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="the report draws")
    results, out = tmp_path / "results", tmp_path / "docs"
    suite.main(["run", "fine", "--out", str(results)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.report.asking", list)
        assert write_report(results, out, check=True) == 1
        assert not out.exists()
        assert write_report(results, out) == 0
        assert write_report(results, out, check=True) == 0
        (out / "fine.md").write_text("old")
        assert write_report(results, out, check=True) == 1
    assert sorted(path.name for path in out.iterdir()) == ["fine-curve.png", "fine.md", "index.md"]


def test_a_text_gets_the_tables_that_it_asks_for(toys, tmp_path):
    suite.main(["run", "fine", "--budget", "smoke", "--out", str(tmp_path)])
    asked = "before\n<!-- table: fine/errors -->\nold\n<!-- end -->\nafter\n"
    text = filled(asked, tmp_path)
    assert "old" not in text
    assert "| ours | **1.100 ± 0.058** | 20,000 |" in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- end -->\nafter\n")
    assert filled(text, tmp_path) == text
    with pytest.raises(ValueError, match="has no table 'other'"):
        filled(asked.replace("errors", "other"), tmp_path)
    with pytest.raises(ValueError, match="there is no"):
        filled(asked.replace("fine", "gone"), tmp_path)


def test_the_committed_pages_and_tables_are_those_of_the_committed_results():
    assert write_report(machine.RESULTS, machine.RESULTS.parent.parent / "docs/benchmarks", check=True) == 0


def result_of(cells, folder):
    made = Table("t", "T", ["value"])
    for k, cell in enumerate(cells):
        made.add(str(k), {"value": cell})
    content = {"benchmark": "toy", **Result([made]).to_dict()}
    return machine.write(folder / "toy.json", json.loads(json.dumps(content))).parent


def test_independent_runs_agree_and_a_shift_is_found(tmp_path):
    generator = torch.Generator().manual_seed(0)

    def run(shift):
        draws = shift + torch.randn(200, 3, generator=generator, dtype=torch.float64)
        return [measured(row.tolist()) for row in draws]

    one, other, moved = (result_of(run(shift), tmp_path / str(k)) for k, shift in enumerate((0.0, 0.0, 40.0)))
    # 200 figures of three seeds at a chance of 1e-6 for one false alarm in all.
    found, count = differences(one, other, 1e-6)
    assert (found, count) == ([], 200)
    # A shift of 40 deviations; three seeds find it in nearly every figure at one in a thousand each.
    found, _ = differences(one, moved, 0.2)
    assert len(found) > 180


def test_estimates_ratios_and_equal_numbers_are_compared_as_what_they_are(tmp_path):
    first = [
        estimated(1.0, 0.1),
        estimated(1.0, 0.1),
        ratio(1.0, 0.9, 1.1, 1, 9),
        ratio(1.0, 0.9, 1.1, 1, 9),
        measured([2, 2]),
        measured([2, 2]),
    ]
    second = [
        estimated(1.3, 0.1),
        estimated(2.0, 0.1),
        ratio(1.3, 1.2, 1.4, 1, 9),
        ratio(1.5, 1.4, 1.6, 1, 9),
        measured([2, 2]),
        measured([3, 3]),
    ]
    found, count = differences(
        result_of(first, tmp_path / "one"), result_of(second, tmp_path / "other"), 0.01
    )
    assert count == 6
    assert [line.split(",")[0] for line in found] == ["toy/t: 1", "toy/t: 3", "toy/t: 5"]


def test_what_is_missing_on_one_side_or_said_otherwise_is_a_difference(tmp_path):
    first = [measured([1, 2, 3]), measured([1, 2, 3]), plain("right"), plain(3)]
    second = [measured([1, 2, 3]), measured([1, 2, float("nan")]), plain("WRONG"), plain(4)]
    one, other = result_of(first, tmp_path / "one"), result_of([*second, plain("more")], tmp_path / "other")
    found, count = differences(one, other, 0.01)
    assert count == 1
    assert [line.split(", value")[0] for line in found] == ["toy/t: 4", "toy/t: 1", "toy/t: 2"]


def test_folders_of_different_budgets_are_not_compared(toys, tmp_path):
    for budget in ("smoke", "small"):
        suite.main(["run", "fine", "--budget", budget, "--out", str(tmp_path / budget)])
    with pytest.raises(ValueError, match="budgets smoke and small"):
        differences(tmp_path / "smoke", tmp_path / "small", 0.01)


def test_ratios_of_few_rounds_are_not_compared(tmp_path):
    one, other = (result_of([ratio(k, k, k, 1, 4), measured([1, 2])], tmp_path / str(k)) for k in (1.0, 2.0))
    assert differences(one, other, 0.01) == ([], 1)


def test_a_result_is_written_whole_or_not_at_all(tmp_path):
    path = machine.write(tmp_path / "one.json", {"value": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        machine.write(path, {"value": float("nan")})
    assert json.loads(path.read_text()) == {"value": 1}


def test_interleaved_timings_find_a_known_ratio():
    contenders = {"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.006)}
    times = interleaved(contenders, rounds=9, device=torch.device("cpu"), block_seconds=0.002, warm_up=1)
    assert times.cell("short")["value"] == 1
    # A sleep lasts at least as asked for, and a busy machine wakes it late: 3, and no less than 1.5.
    assert 1.5 < times.cell("long")["value"] < 6
    assert times.cell("short" + AGAIN)["rounds"] == 9
    assert times.cell("long")["seconds"] >= 0.006
