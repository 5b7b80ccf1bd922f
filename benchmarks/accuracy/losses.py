"""What a network learns by each loss: its error against the exact field, and the noise of its gradient."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from benchmarks.accuracy._losses_learning import (
    Learned,
    Noise,
    Problem,
    Sizes,
    Truth,
    Values,
    learn,
    noise,
    seconds,
    values,
)
from benchmarks.accuracy._losses_variants import TOLD, VARIANTS, Variant, Within
from benchmarks.record import LIMIT, NOISE, OURS, Cell, Plot, Result, Series, Table, measured, missing, plain
from benchmarks.settings import Settings
from benchmarks.timing import AGAIN, Timings
from interpolants.losses import Loss, Quadratic, Regression, Stratified

T = TypeVar("T")
PATHS = ("linear", "linear+brownian", "trigonometric+quadratic")
BASE = VARIANTS[0]

EQUAL_STEPS, TO_REGRESSION, EQUAL_EVALUATIONS = "error [%]", "equal steps", "equal evaluations"
STEP_TIME, EQUAL_SECONDS, LAST, LENGTH = "time of a step", "equal seconds", "last weights [%]", "length"
RATIOS = (TO_REGRESSION, EQUAL_EVALUATIONS, STEP_TIME, EQUAL_SECONDS, LAST, LENGTH)
UNTRAINED = "untrained: variance / |mean|^2"
UNTRAINED_RATIO, TRAINED_RATIO = "untrained: ratio to regression", "trained: ratio to regression"
OTHER = "another objective"
SAME = (BASE.label, "quadratic")
FEWEST = 4
"""Seeds under which nothing is recommended."""
VALUE, RIGHT, SPREAD = "value", "right value", "spread of one example"
SMOKE = Sizes(24, 64, 32, 2, times=8, points=32, gradients=16, held_out=8192, told=1024, rounds=2)
SMALL = Sizes(200, 128, 32, 3, times=16, points=64, gradients=24, held_out=8192, told=4096, rounds=5)
FULL = Sizes(1000, points=64, held_out=8192, rounds=24, compile=True)


def run(settings: Settings) -> Result:
    """Return the tables of errors, of the gradients' noise, and of the losses' own values."""
    sizes = settings.pick(SMOKE, SMALL, FULL)
    seeds = settings.seed_list(2, 4, 8)
    report = Report(sizes, len(seeds))
    for name, path in settings.paths(PATHS).items():
        report.add(name, Problem(path, seeds, sizes, settings.device))
    return Result(report.tables, report.plots, {"seeds": seeds, "sizes": vars(sizes)})


@dataclass
class Report:
    """The tables and plots, filled path by path.

    Args:
        sizes: How much is done.
        seeds: How many seeds.
    """

    sizes: Sizes
    seeds: int

    def __post_init__(self) -> None:
        self.error = error_table(self.sizes, self.seeds)
        self.noise = noise_table(self.sizes, self.seeds)
        self.value = value_table(self.sizes, self.seeds)
        self.tables = [self.error, self.noise, self.value]
        self.plots: list[Plot] = []

    def add(self, name: str, problem: Problem) -> None:
        """Add the rows of a path; where something fails, the rest is kept."""
        truth = attempted(problem.truth)
        learned = self.trained(problem, truth)
        timings = attempted(lambda: seconds(problem, [v for v in VARIANTS if not v.why_not(problem.path)]))
        for variant in VARIANTS:
            cells = error_cells(variant, learned, timings, truth)
            self.error.add(f"{name}: {variant.label}", cells)
        self.add_bounds(name, learned, timings, truth)
        self.add_noise(name, problem, learned)
        self.add_values(name, problem)
        self.error.note = f"{self.error.note} {recommendation(self.error, name)}".strip()
        if not isinstance(timings, str) and not isinstance(truth, str):
            self.plots.append(plot_of(name, learned, timings))

    def add_bounds(
        self, name: str, learned: dict[str, Learned | str], timings: Timings | str, truth: Truth | str
    ) -> None:
        """Add the row of networks that were told the exact velocity, and the timing's noise."""
        cells = error_cells(TOLD, learned, "", truth)
        self.error.add(f"{name}: {TOLD.label}", cells | {STEP_TIME: missing("")}, LIMIT)
        if not isinstance(timings, str):
            again = BASE.label + AGAIN
            self.error.add(f"{name}: {again}", {STEP_TIME: timings.cell(again)}, NOISE)

    def trained(self, problem: Problem, truth: Truth | str) -> dict[str, Learned | str]:
        """Return what each variant came to, or why not."""
        known = None if isinstance(truth, str) else truth
        found: dict[str, Learned | str] = {}
        for variant in VARIANTS:
            why = variant.why_not(problem.path)
            if known is None and variant is not BASE:
                why = why or str(truth)
            found[variant.label] = why or attempted(partial(learn, problem, variant, known))
        found[TOLD.label] = attempted(partial(learn, problem, TOLD, known)) if known else str(truth)
        return found

    def add_noise(self, name: str, problem: Problem, learned: dict[str, Learned | str]) -> None:
        """Add the rows of the gradients' noise, at untrained networks and those of the plain loss."""
        base = learned[BASE.label]
        trained = base if isinstance(base, str) else base.network
        of = {
            variant.label: (
                attempted(partial(noise, problem, variant, problem.ensemble())),
                trained if isinstance(trained, str) else attempted(partial(noise, problem, variant, trained)),
            )
            for variant in VARIANTS
            if variant.learns == "velocity" and not variant.why_not(problem.path)
        }
        for variant in VARIANTS:
            if variant.label in of:
                cells = noise_cells(variant, of[variant.label], of[BASE.label])
                self.noise.add(f"{name}: {variant.label}", cells)

    def add_values(self, name: str, problem: Problem) -> None:
        """Add the rows of the losses' own values."""
        for kind in (Regression, Quadratic):
            for antithetic in (False, True):
                if antithetic and problem.path.gamma.vanishes:
                    continue
                label = f"{name}: {kind.__name__.lower()}{', antithetic' if antithetic else ''}"
                times = Within(Stratified(), len(problem.seeds))
                loss = kind(problem.path, times=times, antithetic=antithetic)
                found = attempted(partial(values, problem, loss))
                self.value.add(label, value_cells(kind, found))


def attempted(work: Callable[[], T]) -> T | str:
    """Return what a piece of work returns, or what went wrong: one path must not lose the others' rows."""
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"


def error_table(sizes: Sizes, seeds: int) -> Table:
    """Return the empty table of errors."""
    return Table(
        "error",
        "Error of the learned velocity, E|b_hat - b|^2 / E|b|^2 over uniform times, beside regression's",
        [EQUAL_STEPS, TO_REGRESSION, EQUAL_EVALUATIONS, STEP_TIME, EQUAL_SECONDS, LAST, LENGTH],
        note=f"Three Gaussians to eight, d = 2; {seeds} seeds, each with its own network ({sizes.depth} "
        f"layers of {sizes.width}), training data and {sizes.times * sizes.points:,} points for the "
        f"error; batch {sizes.batch}, Adam at 2e-3, {sizes.steps:,} steps, weights averaged over about "
        "the last tenth of them (last weights: not averaged). Ratios are of errors, seed by seed, "
        "after as many steps, network evaluations (an antithetic pair takes two) or seconds of one "
        "network in the library's eager trainer (time of a step: median and quartiles of interleaved "
        "rounds, of which every seed has some to itself; quadratic does the work of regression but for one "
        "product: how far its time is from 1 is how far the clock is to be trusted). Length is "
        "E[b_hat . b] / E|b|^2: a network of the velocity learns it up to 1, and beyond when its loss "
        "teaches too large a velocity. A "
        "network that is told the exact velocity (at "
        f"{sizes.told:,} points) shows what the noise of the targets costs all others.",
    )


def noise_table(sizes: Sizes, seeds: int) -> Table:
    """Return the empty table of the gradients' noise."""
    return Table(
        "noise",
        "Variance of a minibatch's gradient at fixed networks, summed over the weights",
        [UNTRAINED, UNTRAINED_RATIO, TRAINED_RATIO],
        note=f"{sizes.gradients} minibatches at the untrained networks of {seeds} seeds, and at those that "
        "regression trained (averaged weights), where the mean gradient is nearly 0 and only one "
        "objective's variances compare. Quadratic and regression have the same gradient on every "
        "minibatch, not only on average: they differ by |target|^2, in which the network has no part. "
        "With a Brownian latent noise the true variance is infinite without antithetic pairs, "
        "importance, a weight or times that thin out at the ends: what is seen of it is finite, and "
        "grows with the number of minibatches.",
    )


def value_table(sizes: Sizes, seeds: int) -> Table:
    """Return the empty table of the losses' values."""
    return Table(
        "value",
        "What each loss says of the exact field, in units of E|b|^2",
        [VALUE, RIGHT, SPREAD],
        note=f"{sizes.held_out:,} examples at stratified times for each of {seeds} seeds. The quadratic loss "
        "must say -1, or the path's derivative is not that of its values; what regression says is the "
        "noise of its target, and infinite with a Brownian latent noise. The spread is the standard "
        "deviation of one example or antithetic pair.",
    )


def error_cells(
    variant: Variant, learned: dict[str, Learned | str], timings: Timings | str, truth: Truth | str
) -> dict[str, Cell]:
    """Return a variant's row of errors, with its ratios to the plain loss's."""
    mine, base = learned[variant.label], learned[BASE.label]
    if isinstance(mine, str) or isinstance(base, str) or isinstance(truth, str):
        why = next(found for found in (mine, truth, base) if isinstance(found, str))
        return {EQUAL_STEPS: missing(why)} | {name: missing("") for name in RATIOS}
    steps = mine.steps[-1]
    cells = {
        EQUAL_STEPS: measured((100 * mine.curve[-1]).tolist()),
        TO_REGRESSION: compared(mine.curve[-1], base.curve[-1]),
        EQUAL_EVALUATIONS: compared(mine.at(steps / variant.evaluations), base.at(steps)),
        LAST: measured((100 * mine.last).tolist()),
        LENGTH: measured(mine.length.tolist()),
    }
    if isinstance(timings, str):
        return cells | {STEP_TIME: missing(timings)}
    at_time = [
        mine.at(ours)[k] / base.at(plain)[k] for k, (ours, plain) in enumerate(reach(variant, mine, timings))
    ]
    return cells | {STEP_TIME: timings.cell(variant.label), EQUAL_SECONDS: measured(at_time)}


def reach(variant: Variant, learned: Learned, timings: Timings) -> list[tuple[float, float]]:
    """Return for each seed how many steps the variant and the plain loss make in the same seconds.

    Every seed has rounds of the timing to itself, so that the clock's noise is part of the error over seeds.
    """
    seeds, steps = learned.curve.shape[1], learned.steps[-1]
    found = []
    for k in range(seeds):
        mine, base = (
            statistics.median(times[k::seeds] or [times[k % len(times)]])
            for times in (timings.seconds[variant.label], timings.seconds[BASE.label])
        )
        # Nobody is read beyond the end of his curve.
        time = steps * min(mine, base)
        found.append((time / mine, time / base))
    return found


def compared(mine: Tensor, base: Tensor) -> Cell:
    """Return the mean of the seeds' ratios."""
    return measured((mine / base).tolist())


def noise_cells(
    variant: Variant, mine: tuple[Noise | str, Noise | str], base: tuple[Noise | str, Noise | str]
) -> dict[str, Cell]:
    """Return a variant's row of noise: at untrained networks, and at trained ones."""
    cells = {TRAINED_RATIO: noise_ratio(variant, mine[1], base[1]) if variant.uniform else missing(OTHER)}
    if isinstance(mine[0], str):
        return cells | {UNTRAINED: missing(mine[0])}
    if (mine[0].squared_mean <= 0).any():
        cells[UNTRAINED] = missing("the mean is lost in the noise")
    else:
        cells[UNTRAINED] = measured(mine[0].relative.tolist())
    return cells | {UNTRAINED_RATIO: noise_ratio(variant, mine[0], base[0])}


def noise_ratio(variant: Variant, mine: Noise | str, base: Noise | str) -> Cell:
    """Return the ratio of variances, which of another objective are taken beside their squared means."""
    if isinstance(mine, str) or isinstance(base, str):
        return missing(mine if isinstance(mine, str) else str(base))
    if variant.uniform:
        return compared(mine.variance, base.variance)
    if (torch.minimum(mine.squared_mean, base.squared_mean) <= 0).any():
        return missing("the mean is lost in the noise")
    return compared(mine.relative, base.relative)


def value_cells(kind: type[Loss], found: Values | str) -> dict[str, Cell]:
    """Return a loss's row of values."""
    if isinstance(found, str):
        return {VALUE: missing(found)}
    right = plain("-1") if kind is Quadratic else missing("")
    return {VALUE: measured(found.mean.tolist()), RIGHT: right, SPREAD: measured(found.spread.tolist())}


def plot_of(name: str, learned: dict[str, Learned | str], timings: Timings) -> Plot:
    """Return the curves of error against the seconds that one network takes."""
    plot = Plot(
        f"seconds-{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}",
        f"{name}: error of the learned velocity",
        "seconds of training one network",
        "E|b_hat - b|^2 / E|b|^2 [%]",
    )
    for label, found in learned.items():
        if isinstance(found, Learned) and label in timings.seconds:
            cells = [measured((100 * errors).tolist()) for errors in found.curve]
            times = [step * timings.cell(label)["seconds"] for step in found.steps]
            errors = [cell["standard_error"] for cell in cells]
            plot.series.append(Series(label, times, [cell["value"] for cell in cells], errors))
    return plot


def recommendation(table: Table, name: str) -> str:
    """Return which way to train on a path is clearly the best for its seconds, and for its evaluations."""
    seconds, evaluations = (best(table, name, column) for column in (EQUAL_SECONDS, EQUAL_EVALUATIONS))
    return f"On {name}: for the same seconds, {seconds}; for the same evaluations, {evaluations}."


def best(table: Table, name: str, column: str) -> str:
    """Return the row of the smallest ratio to regression, if more than three standard errors below 1."""
    ratios = {}
    for row in table.rows:
        label, cell = row.label.removeprefix(f"{name}: "), row.cells.get(column, {})
        # Of the quadratic loss's gradients, which are regression's own, only the timing's noise differs.
        usable = row.kind == OURS and label != row.label and label not in SAME and cell.get("standard_error")
        if usable and cell["seeds"] >= FEWEST and cell["value"] + 3 * cell["standard_error"] < 1:
            ratios[label] = cell["value"]
    if not ratios:
        return "nothing is clearly better than regression"
    label = min(ratios, key=lambda label: ratios[label])
    return f"{label} has {ratios[label]:.2f} of regression's error"
