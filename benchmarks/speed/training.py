"""One training step of the 2-D example: batch 256, an MLP of 4 x 64 with ReLU, Adam with rate 1e-3."""

from __future__ import annotations

import itertools
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.record import LIMIT, NOISE, OURS, Cell, Result, Table, missing
from benchmarks.settings import Settings
from benchmarks.speed import steps
from benchmarks.speed.steps import ADAM, AZULA_NOTE, Task
from benchmarks.timing import AGAIN, Timings, Work, interleaved
from interpolants import MLP
from interpolants.data import load_density, shipped_density

BATCH = 256
BASE = "by hand"
BASES = {"to by hand": BASE, "to torchcfm": "torchcfm", "to flow_matching": "flow_matching"}
PRODUCTS = "its matrix products alone"
COMPILED = "Trainer(compile=True)"
TRAINERS = {
    "Trainer, the same Adam": partial(steps.trainer, optimizer=ADAM),
    "Trainer, fused Adam (default)": partial(steps.trainer, optimizer=None),
    COMPILED: partial(steps.trainer, optimizer=None, compile=True),
}


def run(settings: Settings) -> Result:
    """Return the table of training steps."""
    task = plane(settings)
    works: dict[str, Work] = {BASE: steps.loop(task, steps.by_hand)}
    works[PRODUCTS] = matrix_products(task.network(), BATCH)
    works |= {name: make(task) for name, make in TRAINERS.items()}
    problem = _problem(works[COMPILED])
    if problem:
        del works[COMPILED]
    works |= steps.peers(task, settings)
    rounds = settings.rounds or settings.pick(4, 60, 200)
    times = interleaved(works, rounds=rounds, device=settings.device, warm_up=settings.pick(3, 50, 50))
    return Result([_table(times, problem, settings)], settings={"batch": BATCH, "width": 64, "depth": 4})


def plane(settings: Settings) -> Task:
    """Return the shipped pair of 2-D densities, as drawn points."""
    count = settings.pick(1024, 65_536, 65_536)
    generator = torch.Generator().manual_seed(settings.first_seed)
    x0s, x1s = (
        load_density(shipped_density(name)).sample(count, generator=generator).to(settings.device)
        for name in ("p0", "p1")
    )
    return Task(lambda: MLP(2).to(settings.device), x0s, x1s, BATCH)


def matrix_products(network: nn.Module, batch: int) -> Work:
    """Return the products of a forward and a backward pass and nothing else, into memory that is there."""
    weights = [m.weight.detach() for m in network.modules() if isinstance(m, nn.Linear)]
    values = [weights[0].new_ones(batch, weights[0].shape[1])]
    values += [w.new_ones(batch, w.shape[0]) for w in weights]
    gradients = [torch.empty_like(w) for w in weights]
    layers = list(zip(weights, itertools.pairwise(values), gradients, strict=True))

    def step() -> Tensor:
        for weight, (before, after), _ in layers:
            torch.mm(before, weight.T, out=after)
        for k, (weight, (before, after), gradient) in reversed(list(enumerate(layers))):
            torch.mm(after.T, before, out=gradient)
            if k > 0:  # Nobody asks for the gradient of the points.
                torch.mm(after, weight, out=before)
        return values[0]

    return step


def _problem(work: Work) -> str:
    """Make a first, compiled step and return why it cannot be made, "" where it can."""
    try:
        work()
    except RuntimeError as error:
        return str(error).splitlines()[0]
    return ""


def _table(times: Timings, problem: str, settings: Settings) -> Table:
    cells = partial(steps.ratios, times, bases={c: b for c, b in BASES.items() if c in _columns(settings)})
    table = Table(
        "training_step",
        "A training step of the 2-D example, as a ratio of times",
        _columns(settings),
        note="Batch 256, MLP of 4 x 64, Adam 1e-3, interleaved in one run. The matrix products are "
        f"the network's, forward and backward, with nothing between them. {AZULA_NOTE}",
        lower_is_better=True,
    )
    table.add(BASE, cells(BASE), NOISE)
    table.add(BASE + AGAIN, cells(BASE + AGAIN), NOISE)
    table.add(PRODUCTS, cells(PRODUCTS), LIMIT)
    for name in TRAINERS:
        failed: dict[str, Cell] = {table.columns[0]: missing(problem)}
        table.add(name, cells(name) if name in times.seconds else failed, OURS)
    steps.add_peers(table, cells, settings)
    return table


def _columns(settings: Settings) -> list[str]:
    return [column for column, base in BASES.items() if base == BASE or base in settings.peers]
