r"""Eight Gaussians to moons by the protocol of Figure 1 of C2OT (arXiv 2503.10636), without conditions.

A residual network, Adam at 3e-4, 20,000 minibatches of 256 cut from pools of 1,024, within which optimal
transport pairs the points; the figure is the *squared* 2-Wasserstein distance after one Euler step and by
dopri5 at 1e-4. As in the authors' code (hkchengrex/C2OT, moons.py) the moons are two evenly spaced arcs
moved along the diagonal by one uniform number a point, the Gaussians have the standard deviation
:math:`0.1^{1/4}`, and independent minibatches hold a quarter of the arcs each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.accuracy._planar import (
    CALIBRATED,
    COUPLINGS,
    FLOORS,
    INDEPENDENT,
    TEST,
    TRANSPORT,
    Bench,
    Contender,
    Recipe,
    adam,
    annealed,
    attempted,
    distances,
    ours,
    peers,
)
from benchmarks.record import (
    FLOOR,
    LIMIT,
    OURS,
    PEER,
    PUBLISHED,
    Cell,
    Plot,
    Result,
    Series,
    Table,
    measured,
    missing,
    plain,
    published,
)
from benchmarks.settings import Settings
from interpolants import LearnedField, ODESampler
from interpolants.data import eight_gaussians

ITERATIONS, ROWS, POOL = 20_000, 256, 1024
STANDARD_DEVIATION = 0.1**0.25
EULER, ADAPTIVE, EVALUATIONS, CALIBRATION = "one Euler step", "dopri5", "evaluations", "calibration"
COLUMNS = (EULER, ADAPTIVE, EVALUATIONS, CALIBRATION)
STEPS = (1, 2, 4, 8, 16)
# Of the arcs' law: cosine and sine of a uniform angle, the distance of the two middles, the shift.
VARIANCE = 9 * (0.5 + 0.25 + 0.5 - (2 / math.pi) ** 2 + (2 / math.pi - 0.25) ** 2 + 2 * 0.2**2 / 12)
FIGURE = "arXiv 2503.10636, Figure 1"
PRINTED = {INDEPENDENT: ((6.232, 0.186), (0.120, 0.045)), TRANSPORT: ((0.072, 0.025), (0.050, 0.040))}


@dataclass(frozen=True)
class Sizes:
    """How much of a table is done.

    Attributes:
        steps: Minibatches.
        plans: Plans of optimal transport for each seed.
        points: Points of each seed between which distances are taken.
        held_out: Pairs of each seed for the calibration.
    """

    steps: int
    plans: int
    points: int
    held_out: int


class Block(nn.Module):
    """A residual block: out to four times the width and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Return what the block makes of ``x``."""
        return x + self.layers(x)


class Residual(nn.Module):
    """The protocol's network: point and time each to the width, added, then residual blocks."""

    def __init__(self, width: int = 128, depth: int = 3) -> None:
        super().__init__()
        self.point, self.time = nn.Linear(2, width), nn.Linear(1, width)
        self.layers = nn.Sequential(*(Block(width) for _ in range(depth)), nn.Linear(width, 2))

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the velocity, shape ``(B, 2)``."""
        answer: Tensor = self.layers(self.point(x) + self.time(t.unsqueeze(1)))
        return answer


def run(settings: Settings) -> Result:
    """Return the paper's figures beside ours."""
    sizes = settings.pick(
        Sizes(30, 2, 256, 2_000), Sizes(1_500, 20, 1_000, 20_000), Sizes(ITERATIONS, 200, 5_000, 100_000)
    )
    return Result([protocol(settings, sizes)], settings={"protocol": vars(sizes)})


def protocol(settings: Settings, sizes: Sizes) -> Table:
    """Return the table of the paper's protocol."""
    # A seed of the full training takes a core three minutes, its plans on any machine half a minute more.
    many = settings.seed_list(2, 2, 10 if settings.device.type == "cuda" else 5)
    few = many[:3] if settings.seeds is None else many
    table = Table("moons", f"Squared 2-Wasserstein distance after {sizes.steps:,} iterations", COLUMNS)
    table.note = note(sizes, len(many), len(few))
    bench = bench_of(settings, sizes, many)
    table.add("fresh points of the target", floor(bench, sizes), FLOOR)
    table.add("exact velocity, linear, independent", {EULER: plain(round(VARIANCE, 3))}, LIMIT)
    for coupling, printed in PRINTED.items():
        table.add(f"C2OT's authors, {coupling}", paper(printed), PUBLISHED)
    for coupling, seeds in ((INDEPENDENT, many), (TRANSPORT, few)):
        bench = bench_of(settings, sizes, seeds)
        for contender in ours(settings, ["linear"], [coupling]):
            table.add(contender.label, attempted(COLUMNS, partial(cells, bench, contender, sizes)), OURS)
    return table


def shorter(settings: Settings, sizes: Sizes) -> tuple[Table, Plot]:
    """Return the table of all paths and peers at a shorter training, and the figure of their steps."""
    schedule = partial(annealed, steps=sizes.steps)
    bench = bench_of(settings, sizes, settings.seed_list(2, 2, 3), schedule)
    names = [f"Euler, {steps}" for steps in STEPS]
    columns = (*names, ADAPTIVE, CALIBRATION)
    table = Table("moons_short", f"Squared 2-Wasserstein distance after {sizes.steps:,} iterations", columns)
    table.note = (
        f"The same network, points and {len(bench.seeds)} seeds for all, {sizes.steps:,} iterations "
        "with the learning rate falling to 0; "
        f"{sizes.points:,} points of each seed. Peers' velocities are integrated by the same solvers. A path "
        "with latent noise is trained with antithetic pairs: two evaluations of the network a step. "
        f"{CALIBRATED}"
    )
    fresh = floor(bench, sizes)[ADAPTIVE]
    table.add("fresh points of the target", dict.fromkeys((*names, ADAPTIVE), fresh), FLOOR)
    plot = Plot("moons_steps", "Eight Gaussians to moons", "Euler steps", "squared W2", floor=fresh["value"])
    plot.floor_label = "fresh points of the target"
    paths = ["linear", "trigonometric", "linear+brownian"]
    rows = [*ours(settings, paths, [INDEPENDENT]), *ours(settings, paths[:1], [TRANSPORT])]
    for contender in [*rows, *peers(settings, COUPLINGS)]:
        row = attempted(columns, partial(cells, bench, contender, sizes, STEPS))
        table.add(
            contender.label, {name: cell for name, cell in row.items() if name in columns}, contender.kind
        )
        plot.series.append(curve(contender, [row[name] for name in names]))
    for peer in settings.peers:
        if peer == "azula":
            table.add(peer, {name: missing("its source is Gaussian") for name in columns}, PEER)
    return table, plot


def bench_of(
    settings: Settings,
    sizes: Sizes,
    seeds: Sequence[int],
    schedule: Callable[[int], float] | None = None,
) -> Bench:
    """Return where contenders of one table are trained."""
    optimizer = partial(adam, lr=3e-4)
    # Its time goes into matrix products, of which no compiler makes less.
    recipe = Recipe(Residual, optimizer, sizes.steps, ROWS, POOL, sizes.plans, schedule)
    return Bench(partial(pairs, len(seeds)), seeds, recipe, settings.device)


def cells(bench: Bench, contender: Contender, sizes: Sizes, steps: Sequence[int] = (1,)) -> dict[str, Cell]:
    """Train a contender and return its row."""
    field = bench.learnt(contender)
    generator = bench.stream(TEST)
    x0, x1 = pairs(len(bench.seeds), sizes.points, generator)
    row = {}
    for count in steps:
        found = ODESampler("euler", steps=count, end_only=True).sample(field, x0).final
        row[EULER if len(steps) == 1 else f"Euler, {count}"] = measured(
            distances(found, x1, len(bench.seeds))
        )
    row[CALIBRATION] = measured(bench.calibration(field, contender, sizes.held_out))
    return {**row, **attempted([ADAPTIVE], partial(adaptive, bench, field, x0, x1))}


def adaptive(bench: Bench, field: LearnedField, x0: Tensor, x1: Tensor) -> dict[str, Cell]:
    """Return what dopri5 makes of the starting points; all seeds share its steps."""
    sampler = ODESampler("dopri5", steps=1, rtol=1e-4, atol=1e-4)
    found = sampler.sample(field, x0)
    return {
        ADAPTIVE: measured(distances(found.final, x1, len(bench.seeds))),
        EVALUATIONS: plain(found.evaluations),
    }


def floor(bench: Bench, sizes: Sizes) -> dict[str, Cell]:
    """Return the distance of independent points of the target: what a perfect model would have."""
    generator = bench.stream(FLOORS)
    count = len(bench.seeds)
    cell = measured(
        distances(scattered(count, sizes.points, generator), arcs(count, sizes.points, generator), count)
    )
    return {EULER: cell, ADAPTIVE: cell}


def paper(printed: tuple[tuple[float, float], tuple[float, float]]) -> dict[str, Cell]:
    """Return the cells of a published row."""
    of = "standard deviation over 10 runs"
    return {
        name: published(value, spread, FIGURE, of=of)
        for name, (value, spread) in zip((EULER, ADAPTIVE), printed, strict=True)
    }


def curve(contender: Contender, row: Sequence[Cell]) -> Series:
    """Return a contender's distances against its Euler steps."""
    seen = [(steps, cell) for steps, cell in zip(STEPS, row, strict=True) if cell.get("value") is not None]
    return Series(
        contender.label,
        [float(steps) for steps, _ in seen],
        [cell["value"] for _, cell in seen],
        [cell["standard_error"] or 0.0 for _, cell in seen],
        contender.kind,
    )


def pairs(seeds: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points of both sides, so many of each seed."""
    return eight_gaussians(seeds * n, std=STANDARD_DEVIATION, generator=generator), arcs(seeds, n, generator)


def arcs(seeds: int, n: int, generator: torch.Generator) -> Tensor:
    """Return the protocol's moons of each seed: evenly spaced on each arc, the first arc first."""
    first = n // 2
    angles = [torch.linspace(0, math.pi, count, device=generator.device) for count in (first, n - first)]
    lower = torch.arange(n, device=generator.device) >= first
    return shaken(torch.cat(angles).repeat(seeds), lower.repeat(seeds), generator)


def scattered(seeds: int, n: int, generator: torch.Generator) -> Tensor:
    """Return independent points of the moons' law."""
    angle = math.pi * torch.rand(seeds * n, generator=generator, device=generator.device)
    lower = torch.rand(seeds * n, generator=generator, device=generator.device) < 0.5
    return shaken(angle, lower, generator)


def shaken(angle: Tensor, lower: Tensor, generator: torch.Generator) -> Tensor:
    """Return points of the arcs, each moved along the diagonal by up to 0.2, then scaled."""
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    points = torch.where(lower[:, None], torch.tensor([1.0, 0.5], device=angle.device) - upper, upper)
    moved = points + 0.2 * torch.rand(len(angle), 1, generator=generator, device=angle.device)
    return 3 * moved - 1


def note(sizes: Sizes, many: int, few: int) -> str:
    """Return what a reader of the first table must know."""
    short = "" if sizes.steps == ITERATIONS else f" The paper trains for {ITERATIONS:,}."
    return (
        f"{sizes.points:,} generated and target points of each seed (the paper: 10,000); the floor is at the "
        f"same size. {many} seeds for independent pairs, {few} for optimal transport within 1,024 points, "
        f"whose {sizes.plans:,} plans of each seed are used again and again.{short} One Euler step along the "
        "exact velocity of independent pairs takes every point to the target's mean, whose distance is the "
        "target's variance: with independent pairs a smaller figure tells how the network blurs early times, "
        "not that it is better. All seeds share dopri5's steps. "
        f"{CALIBRATED}"
    )
