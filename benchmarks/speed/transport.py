"""Minibatch optimal transport: from two batches of points to their pairs, and how many targets are kept."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.peers import absence, installed
from benchmarks.record import NOISE, OURS, PEER, Cell, Result, Table, measured, missing
from benchmarks.settings import Settings
from benchmarks.timing import AGAIN, Timings, interleaved
from interpolants import OptimalTransport

Pairing = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
OURS_NAME, SCIPY, POT, TORCHCFM = "OptimalTransport", "scipy", "POT", "torchcfm"
KEPT = "targets kept"


def run(settings: Settings) -> Result:
    """Return a table for each number of elements."""
    sizes = settings.pick([200], [256, 512, 1024], [256, 512, 1024, 2048, 4096])
    return Result([_table(sizes, elements, settings) for elements in (2, 784)])


def points(rows: int, elements: int, seed: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return noise and targets near a ring of eight (2 elements), or pictures of ten causes (more)."""
    generator = torch.Generator().manual_seed(seed)
    x0, noise = torch.randn((2, rows, elements), generator=generator)
    if elements == 2:
        angle = torch.randint(8, (rows,), generator=generator) * (torch.pi / 4)
        x1 = 2 * torch.stack([angle.cos(), angle.sin()], dim=1) + 0.2 * noise
    else:
        causes, pictures = (torch.randn(shape, generator=generator) for shape in ((rows, 10), (10, elements)))
        x1 = (causes @ pictures).tanh()
    return x0.to(device), x1.to(device)


def pairings(settings: Settings) -> dict[str, Pairing]:
    """Return every contender that is there; ours first."""
    found: dict[str, Pairing] = {OURS_NAME: _ours, SCIPY: _scipy}
    if importlib.util.find_spec("ot") is not None:
        found[POT] = _pot
        if TORCHCFM in settings.peers and installed(TORCHCFM):
            found[TORCHCFM] = _torchcfm()
    return found


def kept(pairing: Pairing, x0: Tensor, x1: Tensor) -> float:
    """Return the share of the targets that are among the pairs."""
    _, found = pairing(x0, x1)
    return len(torch.unique(found, dim=0)) / len(torch.unique(x1, dim=0))


def _table(sizes: list[int], elements: int, settings: Settings) -> Table:
    contenders = pairings(settings)
    times = {rows: _timed(contenders, rows, elements, settings) for rows in sizes}
    table = Table(
        f"transport_{elements}",
        f"Minibatch optimal transport of points of {elements} elements: times, as ratios to ours",
        [*map(str, sizes), KEPT],
        note="By the rows of the minibatch. Times are from points to pairs: costs, solver, pairs. "
        f"Targets kept: share of {sizes[0]} targets that are in the pairs at all.",
    )
    seeds = settings.seed_list(2, 5, 10)
    for name in (OURS_NAME, OURS_NAME + AGAIN, SCIPY, POT, TORCHCFM):
        kind = OURS if name == OURS_NAME else NOISE if name.endswith(AGAIN) else PEER
        if name in contenders or name.endswith(AGAIN):
            cells: dict[str, Cell] = {str(rows): times[rows].cell(name) for rows in sizes}
        else:
            cells = {str(sizes[0]): missing(absence(name) if name == TORCHCFM else "POT is not installed")}
        if name in contenders:
            cells[KEPT] = measured(_kept(contenders[name], sizes[0], elements, seeds, settings.device))
        if name != TORCHCFM or TORCHCFM in settings.peers:
            table.add(name, cells, kind)
    return table


def _kept(pairing: Pairing, rows: int, elements: int, seeds: list[int], device: torch.device) -> list[float]:
    return [kept(pairing, *points(rows, elements, seed, device)) for seed in seeds]


def _timed(contenders: dict[str, Pairing], rows: int, elements: int, settings: Settings) -> Timings:
    x0, x1 = points(rows, elements, settings.first_seed, settings.device)
    rounds = settings.rounds or settings.pick(2, 7, 15)
    # Some solvers take half a minute for 4,096 points.
    rounds, warm_up = (min(rounds, 3), 0) if rows >= 2048 else (rounds, 1)
    works = {name: partial(pairing, x0, x1) for name, pairing in contenders.items()}
    return interleaved(works, rounds=rounds, device=settings.device, warm_up=warm_up)


def _ours(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    pairs = OptimalTransport().pair(x0, x1)
    return pairs.x0, pairs.x1


def _cost(x0: Tensor, x1: Tensor) -> Tensor:
    """Return what one writes: torch's distances, here in double precision, squared."""
    return torch.cdist(x1.double(), x0.double()).square().cpu()


def _scipy(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    from scipy.optimize import linear_sum_assignment

    _, columns = linear_sum_assignment(_cost(x0, x1).numpy())
    return x0[torch.from_numpy(columns).to(x0.device)], x1


def _pot(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    import ot

    plan = ot.emd([], [], _cost(x0, x1).numpy(), numItermax=10**9)
    return x0[torch.from_numpy(plan.argmax(axis=1)).to(x0.device)], x1


def _torchcfm() -> Pairing:
    from torchcfm.optimal_transport import OTPlanSampler

    sample: Pairing = OTPlanSampler(method="exact").sample_plan
    return sample
