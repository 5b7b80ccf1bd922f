"""The benchmark suite: `python -m benchmarks list | run NAME... | report | compare`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine
from benchmarks.catalogue import CATALOGUE
from benchmarks.peers import PEERS, absence, installed
from benchmarks.record import Result
from benchmarks.settings import BUDGETS, Settings, conformance, interpolant_named

STUDIES = {
    "checkerboard": "a trained checkerboard's samples by ODE and by SDEs",
    "digits": "the digits' default training beside longer ones",
    "sources": "glyphs and noise as sources of digits",
    "ddim": "IADB beside DDIM at every number of steps",
    "guidance": "class-conditional digits at several scales of guidance",
    "survival": "a training killed forty times",
    "transformer": "a transformer's training step (GPU)",
}
"""Longer runs, each with a command line of its own."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; the status is 1 when a benchmark failed and 2 when the command cannot be used."""
    given = _parser().parse_args(arguments)
    try:
        return int(given.command(given))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show_list(given: argparse.Namespace) -> int:
    """Print the benchmarks."""
    for group in ("accuracy", "speed"):
        print(f"{group}:")
        for benchmark in CATALOGUE.values():
            if benchmark.group == group:
                print(f"  {benchmark.name:15}{benchmark.summary}")
    print("longer studies, run by themselves as `python -m benchmarks.NAME`:")
    for name, summary in STUDIES.items():
        print(f"  {name:15}{summary}")
    print("peers for --compare:")
    for name in PEERS:
        print(f"  {name:15}{'installed' if installed(name) else 'not installed'}")
    return 0


def run(given: argparse.Namespace) -> int:
    """Run benchmarks, writing each result as it comes; one that fails does not stop the others."""
    settings = _settings(given)
    names = _names(given.names)
    torch.set_num_threads(given.threads)
    for name in settings.interpolants:
        broken = conformance(interpolant_named(name))
        if broken:
            print(f"warning: the tables show {name}, though it breaks a promise: {broken}", file=sys.stderr)
    failed = []
    for name in names:
        started, about = time.perf_counter(), machine.description(_command(name, settings), settings.device)
        print(f"{name} ({settings.budget}) ...", flush=True)
        try:
            result = CATALOGUE[name].run(settings)
        except Exception as error:
            if given.raise_errors:
                raise
            failed.append(name)
            print(f"{name} failed: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        path = machine.write(given.out / f"{name}.json", _content(name, result, settings, about, started))
        _show(path)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _content(
    name: str, result: Result, settings: Settings, about: dict[str, Any], started: float
) -> dict[str, object]:
    broken = {path: conformance(interpolant_named(path)) for path in settings.interpolants}
    for table in result.tables:
        for row in table.rows:
            # A wrong path may still end near the target: what it is stands beside its every number.
            if any(message and path in row.label for path, message in broken.items()):
                row.label += " [WRONG: breaks a promise]"
    return {
        "benchmark": name,
        "summary": CATALOGUE[name].summary,
        **about,
        "seconds": time.perf_counter() - started,
        "budget": settings.budget,
        "breaks_a_promise": {path: message for path, message in broken.items() if message},
        **result.to_dict(),
    }


def _command(name: str, settings: Settings) -> str:
    words = ["python", "-m", "benchmarks", "run", name, "--budget", settings.budget]
    defaults = Settings()
    if settings.device.type != "cpu":
        words += ["--device", str(settings.device)]
    for flag in ("seeds", "first_seed", "rounds"):
        if getattr(settings, flag) != getattr(defaults, flag):
            words += ["--" + flag.replace("_", "-"), str(getattr(settings, flag))]
    if settings.interpolants:
        words += ["--interpolant", ",".join(settings.interpolants)]
    words += ["--compare", ",".join(settings.peers) or "none"]
    if torch.get_num_threads() != 1:
        words += ["--threads", str(torch.get_num_threads())]
    return shlex.join(words)


def _show(path: Path) -> None:
    from benchmarks.record import read
    from benchmarks.report import markdown

    about, result = read(path)
    for table in result.tables:
        print(f"\n{markdown(table)}")
    print(f"{path} ({about['seconds']:.0f} s)\n", flush=True)


def report(given: argparse.Namespace) -> int:
    """Turn results into Markdown and pictures."""
    from benchmarks.report import write_report

    return write_report(given.results, given.out, check=given.check)


def compare(given: argparse.Namespace) -> int:
    """Say where two folders of results differ by more than their errors."""
    from benchmarks.report import differences

    found, cells = differences(given.first, given.second, given.alarm)
    for line in found:
        print(line)
    print(f"{cells} figures compared, {len(found)} further apart than their errors allow")
    return 1 if found else 0


def _settings(given: argparse.Namespace) -> Settings:
    try:
        device = torch.device(given.device)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"--device {given.device} cannot be used here: {str(error).splitlines()[0]}"
        ) from error
    peers = {"all": list(PEERS), "none": []}.get(given.compare, _split(given.compare))
    for peer in peers:
        if peer not in PEERS:
            raise ValueError(f"--compare knows {', '.join(PEERS)}; got {peer!r}")
        if not installed(peer):
            print(f"note: {absence(peer)}", file=sys.stderr)
    settings = Settings(
        device, given.budget, interpolants=tuple(_split(given.interpolant)), peers=tuple(peers)
    )
    settings = replace(settings, seeds=given.seeds, first_seed=given.first_seed, rounds=given.rounds)
    settings.paths(())  # A name that is none fails before anything is run.
    return settings


def _names(names: list[str]) -> list[str]:
    """Return the benchmarks asked for; a group stands for its members, all for all."""
    found: list[str] = []
    for name in names:
        members = [b.name for b in CATALOGUE.values() if name in ("all", b.group, b.name)]
        if not members:
            known = ", ".join(["all", "accuracy", "speed", *CATALOGUE])
            raise ValueError(f"there is no benchmark {name!r}; known: {known}")
        found += [member for member in members if member not in found]
    return found


def _split(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1; got {number}")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("list", help="name the benchmarks, and which peers are installed")
    one.set_defaults(command=show_list)

    one = commands.add_parser("run", help="run benchmarks and write their results")
    one.add_argument("names", nargs="+", metavar="NAME", help="a benchmark, a group (accuracy, speed) or all")
    one.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    one.add_argument("--budget", choices=BUDGETS, default="small", help="how much (default: %(default)s)")
    one.add_argument("--seeds", type=_positive, metavar="N", help="how many seeds (default: the budget's)")
    one.add_argument(
        "--first-seed", type=int, default=0, metavar="N", help="the first seed (default: %(default)s)"
    )
    one.add_argument(
        "--interpolant",
        default="",
        metavar="NAMES",
        help="paths for the tables, as in linear,trigonometric+brownian,package.module:Mine "
        "(default: each benchmark's own)",
    )
    one.add_argument(
        "--compare",
        default="all",
        metavar="PEERS",
        help="peers to run beside, or none (default: all; one that is missing is reported)",
    )
    one.add_argument("--rounds", type=_positive, metavar="N", help="interleaved rounds of a timing")
    one.add_argument("--threads", type=_positive, default=1, help="CPU threads (default: %(default)s)")
    one.add_argument("--out", type=Path, default=machine.RESULTS, help="folder (default: benchmarks/results)")
    one.add_argument("--raise-errors", action="store_true", help="stop at the first error with its traceback")
    one.set_defaults(command=run)

    one = commands.add_parser("report", help="make Markdown tables and plots of the results")
    one.add_argument("--results", type=Path, default=machine.RESULTS, help="folder of results")
    one.add_argument(
        "--out", type=Path, default=Path("docs/benchmarks"), help="folder (default: %(default)s)"
    )
    one.add_argument("--check", action="store_true", help="write nothing; fail when something is out of date")
    one.set_defaults(command=report)

    one = commands.add_parser("compare", help="compare two folders of results within their errors")
    one.add_argument("first", type=Path)
    one.add_argument("second", type=Path)
    one.add_argument(
        "--alarm",
        type=float,
        default=1e-3,
        help="chance of a false alarm in all figures together (default: %(default)s)",
    )
    one.set_defaults(command=compare)
    return parser


if __name__ == "__main__":
    sys.exit(main())
