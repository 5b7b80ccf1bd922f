"""Sets in the plane by the protocol of Table 2 of OT-CFM (arXiv 2302.00482): distance and path energy.

From a normal law to two moons, an S-curve and eight Gaussians, and from the moons to the Gaussians; 10,000
training points of each set, a fully connected network of 3 x 64 with SELU, AdamW at 1e-3, minibatches of 512
within which optimal transport pairs the points, 100 Euler steps, 1,000 points against 1,000. As there, the
normalised path energy is how far the energy lies from the squared Wasserstein-2 distance between the two
laws, as a share of it. Not as there: no noise is added to the pairs (theirs has standard deviation 0.1), the
learning rate falls to 0 where they keep the best of many checkpoints, and there are fewer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.accuracy._planar import (
    BASELINE,
    CALIBRATED,
    COUPLINGS,
    FLOORS,
    INDEPENDENT,
    TEST,
    TRAINING_SETS,
    TRANSPORT,
    Bench,
    Contender,
    Recipe,
    adamw,
    annealed,
    attempted,
    distances,
    ours,
    peers,
    stream,
)
from benchmarks.record import FLOOR, LIMIT, Cell, Result, Table, measured
from benchmarks.settings import Settings
from interpolants import MLP, ODESampler
from interpolants.data import eight_gaussians, moons
from interpolants.metrics import path_energy

DISTANCE, ENERGY, NORMALISED, CALIBRATION = "W2", "path energy", "normalised path energy", "calibration"
COLUMNS = (DISTANCE, ENERGY, NORMALISED, CALIBRATION)
POINTS, EULER_STEPS, ROWS = 1_000, 100, 512

Law = Callable[[int, torch.Generator], Tensor]


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        steps: Minibatches.
        plans: Plans of optimal transport for each seed.
        training: Training points of each seed.
        points: Generated and test points of each seed.
        baseline: Points between which the squared distance of the two laws is taken.
        held_out: Pairs of each seed for the calibration.
    """

    steps: int
    plans: int
    training: int
    points: int
    baseline: int
    held_out: int


@dataclass(frozen=True)
class Task:
    """From one law to another.

    Attributes:
        name: What its table is called.
        title: What the table's title says.
        source: Draws from the one.
        target: Draws from the other.
    """

    name: str
    title: str
    source: Law
    target: Law


def normal(n: int, generator: torch.Generator) -> Tensor:
    """Return points of N(0, Id)."""
    return torch.randn(n, 2, generator=generator, device=generator.device)


def two_moons(n: int, generator: torch.Generator) -> Tensor:
    """Return scikit-learn's moons with noise 0.05, times 2, less 1."""
    # Ours are centred: scikit-learn's are half a unit to the right and a quarter up.
    middle = torch.tensor([0.5, 0.25], device=generator.device)
    return 2 * (moons(n, std=0.05, generator=generator) + middle) - 1


def s_curve(n: int, generator: torch.Generator) -> Tensor:
    """Return the first and third coordinate of scikit-learn's S-curve with noise 0.05, times 1.5."""
    t = 3 * torch.pi * (torch.rand(n, generator=generator, device=generator.device) - 0.5)
    curve = torch.stack([t.sin(), t.sign() * (t.cos() - 1)], dim=1)
    return 1.5 * (curve + 0.05 * normal(n, generator))


def gaussians(n: int, generator: torch.Generator) -> Tensor:
    """Return points of eight Gaussians of standard deviation 1 on a circle of radius 5."""
    return eight_gaussians(n, std=1.0, generator=generator)


TASKS = (
    Task("normal_moons", "Normal law to moons", normal, two_moons),
    Task("normal_s_curve", "Normal law to S-curve", normal, s_curve),
    Task("normal_gaussians", "Normal law to eight Gaussians", normal, gaussians),
    Task("moons_gaussians", "Moons to eight Gaussians", two_moons, gaussians),
)


def run(settings: Settings) -> Result:
    """Return a table for each pair of laws."""
    sizes = settings.pick(
        Sizes(30, 2, 1_000, 128, 256, 2_000),
        Sizes(400, 20, 10_000, 500, 1_000, 20_000),
        Sizes(2_000, 60, 10_000, POINTS, 2_000, 50_000),
    )
    seeds = settings.seed_list(2, 2, 3)
    tables = [table(settings, task, sizes, seeds) for task in TASKS]
    return Result(tables, [], vars(sizes))


def table(settings: Settings, task: Task, sizes: Sizes, seeds: Sequence[int]) -> Table:
    """Return the table of one pair of laws."""
    found = Table(task.name, f"{task.title}: W2 of {EULER_STEPS} Euler steps and path energy", COLUMNS)
    found.note = note(sizes, len(seeds))
    bench = bench_of(settings, task, sizes, seeds)
    shortest = baseline(bench, task, sizes.baseline)
    found.add("fresh points of the target", {DISTANCE: floor(bench, task, sizes.points)}, FLOOR)
    found.add("squared W2 of the two laws", {ENERGY: measured(shortest)}, LIMIT)
    paths = ["linear", "trigonometric", "linear+brownian"]
    rows = [*ours(settings, paths, [INDEPENDENT]), *ours(settings, ["linear"], [TRANSPORT])]
    for contender in [*rows, *peers(settings, COUPLINGS)]:
        row = attempted(COLUMNS, partial(cells, bench, task, contender, sizes, shortest))
        found.add(contender.label, row, contender.kind)
    return found


def bench_of(settings: Settings, task: Task, sizes: Sizes, seeds: Sequence[int]) -> Bench:
    """Return where the contenders of one table are trained."""
    optimizer, schedule = partial(adamw, lr=1e-3, weight_decay=1e-5), partial(annealed, steps=sizes.steps)
    recipe = Recipe(network, optimizer, sizes.steps, ROWS, ROWS, sizes.plans, schedule)
    sets = stream(settings.device, seeds, TRAINING_SETS)
    draw = training_pairs(task, len(seeds), sizes.training, sets)
    return Bench(draw, seeds, recipe, settings.device, partial(pairs, task, len(seeds)))


def network() -> nn.Module:
    """Return the protocol's network."""
    return MLP(2, width=64, depth=3, activation=nn.SELU)


def pairs(task: Task, seeds: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return fresh points of both laws, so many of each seed."""
    return task.source(seeds * n, generator), task.target(seeds * n, generator)


def training_pairs(
    task: Task, seeds: int, n: int, generator: torch.Generator
) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Return what draws from training sets of ``n`` points for each seed; a normal law is never used up."""
    x0, x1 = pairs(task, seeds, n, generator)

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        fresh = task.source is normal
        source = normal(seeds * rows, generator) if fresh else chosen(x0, seeds, rows, generator)
        return source, chosen(x1, seeds, rows, generator)

    return draw


def chosen(points: Tensor, seeds: int, rows: int, generator: torch.Generator) -> Tensor:
    """Return so many points of each seed, chosen with replacement."""
    n = len(points) // seeds
    index = torch.randint(n, (seeds, rows), generator=generator, device=generator.device)
    return points[(index + n * torch.arange(seeds, device=index.device)[:, None]).flatten()]


def cells(
    bench: Bench, task: Task, contender: Contender, sizes: Sizes, shortest: Sequence[float]
) -> dict[str, Cell]:
    """Train a contender and return its row."""
    count = len(bench.seeds)
    field = bench.learnt(contender)
    x0, x1 = pairs(task, count, sizes.points, bench.stream(TEST))
    path = ODESampler("euler", steps=EULER_STEPS).sample(field, x0)
    # Of each seed: (T, seeds, n, 2).
    parts = path.x.unflatten(1, (count, -1)).unbind(1)
    energies = [path_energy(part, path.t) for part in parts]
    return {
        DISTANCE: measured(square**0.5 for square in distances(path.final, x1, count)),
        ENERGY: measured(energies),
        NORMALISED: measured(
            abs(energy - least) / least for energy, least in zip(energies, shortest, strict=True)
        ),
        CALIBRATION: measured(bench.calibration(field, contender, sizes.held_out)),
    }


def floor(bench: Bench, task: Task, points: int) -> Cell:
    """Return the distance of two sets of the target: what a perfect model would have."""
    count, generator = len(bench.seeds), bench.stream(FLOORS)
    both = (task.target(count * points, generator) for _ in range(2))
    return measured(square**0.5 for square in distances(*both, count))


def baseline(bench: Bench, task: Task, points: int) -> list[float]:
    """Return the squared distance between points of the two laws, of each seed."""
    return distances(*pairs(task, len(bench.seeds), points, bench.stream(BASELINE)), len(bench.seeds))


def note(sizes: Sizes, seeds: int) -> str:
    """Return what a reader must know."""
    return (
        f"{sizes.points:,} generated and test points of each seed, the floor likewise; {seeds} seeds, each "
        f"with its own {sizes.training:,} training points; {sizes.steps:,} steps (the protocol: 20,000), "
        "the learning rate falling to 0 (the protocol: constant, and the best checkpoint). "
        f"The normalised energy is |energy - W2²| / W2², with W2² between {sizes.baseline:,} points of each "
        "seed, which are few: differences of some hundredths are the baseline's. Optimal transport pairs "
        f"{ROWS} points; its {sizes.plans} plans of each seed are used again and again. Latent noise is "
        f"trained with antithetic pairs. Peers' velocities are integrated by the same solver. {CALIBRATED}"
    )
