"""What the benchmarks of velocities trained in the plane share: feeds, contenders and distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.ensemble import Ensemble, split, sum_over_seeds, train, train_by_hand
from benchmarks.peers import absence, installed
from benchmarks.record import OURS, PEER, Cell, missing
from benchmarks.settings import Settings
from interpolants import Interpolant, LearnedField, Linear, OptimalTransport, Regression, Velocity
from interpolants.losses import Target
from interpolants.metrics import wasserstein2

TRAINING, TRAINING_SETS, TIMES, TEST, HELD_OUT, FLOORS, BASELINE = range(7)
"""What a stream of random numbers is for."""

INDEPENDENT, TRANSPORT = "independent", "optimal transport"
COUPLINGS = (INDEPENDENT, TRANSPORT)

VELOCITY = Velocity()

CALIBRATED = (
    "Calibration: how fast the path moves over how fast the network says, on held-out pairs; 1 for a right "
    "path and a network trained to the end, 5 % lower for a path whose time derivative is 5 % too large; "
    "networks trained briefly are some hundredths off, so that it is to be read beside linear's. Rows share "
    "their points and draws."
)
"""What the column is, for the notes of the tables."""

AT_ONCE = 10_000
"""Points of each seed whose velocities are evaluated together, which keeps memory in bounds."""

Draw = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""Makes pairs of all seeds, so many of each seed, one seed behind the other."""

Couple = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Pairs points of one seed."""


def stream(device: torch.device, seeds: Sequence[int], purpose: int) -> torch.Generator:
    """Return the generator of one purpose, another one for each first seed."""
    # Far from the seeds themselves, which the networks are made with.
    return torch.Generator(device).manual_seed(1_000_000 + 1_000 * seeds[0] + purpose)


def by_optimal_transport(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """Return the pairs of the library's coupling."""
    pairs = OptimalTransport().pair(x0, x1)
    return pairs.x0, pairs.x1


def by_torchcfm(seed: int) -> Couple:
    """Return torchcfm's own sampler of the optimal plan, which draws with replacement."""
    numbers = iter(range(seed % 2**31, 2**32))

    def couple(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
        import numpy as np
        from torchcfm import ExactOptimalTransportConditionalFlowMatcher

        before = np.random.get_state()  # noqa: NPY002 - torchcfm draws from numpy's global generator
        np.random.seed(next(numbers))  # noqa: NPY002
        try:
            return ExactOptimalTransportConditionalFlowMatcher(sigma=0.0).ot_sampler.sample_plan(x0, x1)
        finally:
            np.random.set_state(before)  # noqa: NPY002

    return couple


@dataclass
class Pools:
    """Pools of pairs of all seeds, ``(seeds, size, 2)`` each, endlessly.

    Args:
        draw: Makes the points.
        size: Points of each seed in a pool, within which they are coupled.
        seeds: How many seeds.
        generator: Where the points come from.
        couple: How the points of one seed are paired; None as they come.
        plans: How many coupled pools there are before they come again, since a plan costs more than a step.
    """

    draw: Draw
    size: int
    seeds: int
    generator: torch.Generator
    couple: Couple | None = None
    plans: int = 1
    kept: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        k = 0
        while True:
            if self.couple is None:
                yield self._fresh()
                continue
            if k == len(self.kept):
                self.kept.append(self._coupled(self.couple))
            yield self.kept[k]
            k = (k + 1) % self.plans

    def _fresh(self) -> tuple[Tensor, Tensor]:
        x0, x1 = self.draw(self.size, self.generator)
        return split(x0, self.seeds), split(x1, self.seeds)

    def _coupled(self, couple: Couple) -> tuple[Tensor, Tensor]:
        pairs = [couple(*part) for part in zip(*self._fresh(), strict=True)]
        # A coupling keeps the order of the targets, of which a minibatch should not be one stretch.
        order = torch.randperm(self.size, generator=self.generator, device=self.generator.device)
        x0, x1 = (torch.stack(part)[:, order] for part in zip(*pairs, strict=True))
        return x0, x1


class Feed:
    """Endless minibatches cut from pools, one stretch after the other; a trainer's data.

    Args:
        pools: The pools.
        rows: Points of each seed in a minibatch; a divisor of the size of a pool.
        generator: Where a trainer draws times and latent noise from.
    """

    def __init__(self, pools: Pools, rows: int, generator: torch.Generator) -> None:
        if pools.size % rows:
            raise ValueError(f"rows must divide the pool of {pools.size}; got {rows}")
        self.generator = generator
        self._batches = (
            (x0[:, k : k + rows].flatten(0, 1), x1[:, k : k + rows].flatten(0, 1))
            for x0, x1 in pools
            for k in range(0, pools.size, rows)
        )

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        return next(self._batches)


@dataclass(frozen=True)
class Recipe:
    """How every contender of a table is trained.

    Attributes:
        build: Makes a network.
        optimizer: Makes its optimiser.
        steps: How many steps.
        rows: Pairs of each seed in a minibatch.
        pool: Points of each seed that are coupled together.
        plans: How many plans of optimal transport each seed has.
        schedule: The factor of the learning rate by the number of steps made.
    """

    build: Callable[[], nn.Module]
    optimizer: Callable[..., torch.optim.Optimizer]
    steps: int
    rows: int
    pool: int
    plans: int
    schedule: Callable[[int], float] | None = None


@dataclass(frozen=True)
class Contender:
    """Who stands in a row.

    Attributes:
        label: What the row is called.
        interpolant: The path that it trains on.
        coupling: The name of the coupling.
        peer: The package, "" for this one.
    """

    label: str
    interpolant: Interpolant
    coupling: str
    peer: str = ""

    @property
    def kind(self) -> str:
        return PEER if self.peer else OURS


def ours(settings: Settings, default: Sequence[str], couplings: Sequence[str]) -> list[Contender]:
    """Return the interpolants of the tables with each coupling."""
    paths = settings.paths(default).items()
    # Copies: a path that learns should begin anew in every row.
    return [Contender(f"{name}, {word}", deepcopy(path), word) for word in couplings for name, path in paths]


def peers(settings: Settings, couplings: Sequence[str]) -> list[Contender]:
    """Return the peers that were asked for, with each coupling that they have: all on the straight line."""
    offered = {
        "torchcfm": list(couplings),
        "flow_matching": [word for word in couplings if word == INDEPENDENT],
    }
    return [
        Contender(f"{peer}, {word}", Linear(), word, peer)
        for peer in settings.peers
        for word in couplings
        if word in offered.get(peer, ())
    ]


class Bench:
    """The trainings of one table: the same seeds, points and recipe for every contender.

    Args:
        draw: Makes training points of all seeds.
        seeds: The seeds.
        recipe: How all are trained.
        device: Where.
        fresh: Makes held-out points, where training points are a limited set.
    """

    def __init__(
        self,
        draw: Draw,
        seeds: Sequence[int],
        recipe: Recipe,
        device: torch.device,
        fresh: Draw | None = None,
    ) -> None:
        self.draw = draw
        self.fresh = draw if fresh is None else fresh
        self.seeds = list(seeds)
        self.recipe = recipe
        self.device = device
        self._pools: dict[tuple[str, int], Pools] = {}

    def stream(self, purpose: int) -> torch.Generator:
        """Return the generator of one purpose."""
        return stream(self.device, self.seeds, purpose)

    def pools(self, contender: Contender, purpose: int, plans: int) -> Pools:
        """Return pools of a contender's coupling; contenders of one coupling share their plans."""
        draw = self.fresh if purpose == HELD_OUT else self.draw
        size, count = self.recipe.pool, len(self.seeds)
        if contender.coupling == INDEPENDENT:
            return Pools(draw, size, count, self.stream(purpose))
        key = (contender.peer, purpose)
        if key not in self._pools:
            generator = self.stream(purpose)
            couple = by_torchcfm(generator.initial_seed()) if contender.peer else by_optimal_transport
            self._pools[key] = Pools(draw, size, count, generator, couple, plans)
        return self._pools[key]

    def learnt(self, contender: Contender) -> LearnedField:
        """Return the field of a contender's trained velocities, of all seeds."""
        return LearnedField(contender.interpolant, velocity=self.network(contender))

    def network(self, contender: Contender, target: Target = VELOCITY) -> Ensemble:
        """Return a contender's trained networks, of all seeds.

        Raises:
            ImportError: When the peer is not installed.
        """
        if contender.peer and not installed(contender.peer):
            raise ImportError(absence(contender.peer))
        network = Ensemble(self.recipe.build, self.seeds).to(self.device)
        pools = self.pools(contender, TRAINING, self.recipe.plans)
        feed = Feed(pools, self.recipe.rows, self.stream(TIMES))
        if contender.peer:
            self._by_peer(contender.peer, network, feed)
        else:
            self._by_us(contender.interpolant, target, network, feed)
        return network.requires_grad_(False)

    def _by_us(self, interpolant: Interpolant, target: Target, network: Ensemble, feed: Feed) -> None:
        for part in interpolant.modules_to_train().values():
            part.to(self.device)
        loss = Regression(
            interpolant,
            target,
            weight=sum_over_seeds(len(self.seeds)),
            antithetic=not interpolant.gamma.vanishes,
        )
        train(network, loss, feed, **self._how())
        for part in interpolant.modules_to_train().values():
            part.requires_grad_(False)

    def _by_peer(self, peer: str, network: Ensemble, feed: Feed) -> None:
        points = PEER_POINTS[peer](feed.generator)

        def loss(network: nn.Module, x0: Tensor, x1: Tensor) -> Tensor:
            t, xt, velocity = points(x0, x1)
            return len(self.seeds) * (network(t, xt) - velocity).square().sum(1).mean()

        # Peers draw from torch's global generator.
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(feed.generator.initial_seed())
            train_by_hand(network, loss, feed, **self._how())

    def _how(self) -> dict[str, Any]:
        # Eager: one compilation costs as much as most of these trainings.
        recipe = self.recipe
        return {"steps": recipe.steps, "optimizer": recipe.optimizer, "schedule": recipe.schedule}

    def calibration(self, field: LearnedField, contender: Contender, points: int) -> list[float]:
        """Return :func:`calibration` on so many held-out pairs of each seed, coupled in pools."""
        generator = self.stream(HELD_OUT)
        if contender.coupling == INDEPENDENT:
            return calibration(field, *self.fresh(points, generator), len(self.seeds), generator)
        count = max(1, min(points // self.recipe.pool, 8))
        found = iter(self.pools(contender, HELD_OUT, count))
        x0, x1 = (torch.cat(part, dim=1) for part in zip(*(next(found) for _ in range(count)), strict=True))
        return calibration(field, x0.flatten(0, 1), x1.flatten(0, 1), len(self.seeds), generator)


Points = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Makes times, points on the path and their velocities from pairs."""


def _torchcfm(generator: torch.Generator) -> Points:
    from torchcfm import ConditionalFlowMatcher

    return ConditionalFlowMatcher(sigma=0.0).sample_location_and_conditional_flow


def _flow_matching(generator: torch.Generator) -> Points:
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler

    path = AffineProbPath(scheduler=CondOTScheduler())

    def points(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        t = torch.rand(len(x0), generator=generator, device=x0.device)
        sample = path.sample(x_0=x0, x_1=x1, t=t)
        return sample.t, sample.x_t, sample.dx_t

    return points


PEER_POINTS: dict[str, Callable[[torch.Generator], Points]] = {
    "torchcfm": _torchcfm,
    "flow_matching": _flow_matching,
}


def calibration(
    field: LearnedField, x0: Tensor, x1: Tensor, seeds: int, generator: torch.Generator
) -> list[float]:
    r"""Return how fast the path moves over how fast the learnt velocity says, of each seed; 1 when right.

    .. math:: E[\hat b \cdot \Delta x_t / \Delta t] / E|\hat b|^2

    with differences of the path itself over 0.002, so that a wrong time derivative shows.
    """
    parts = zip(*(split(x, seeds).split(AT_ONCE, dim=1) for x in (x0, x1)), strict=True)
    found = [
        _projections(field, part0.flatten(0, 1), part1.flatten(0, 1), seeds, generator)
        for part0, part1 in parts
    ]
    along, lengths = torch.stack(found).sum(0)
    return (along / lengths).tolist()


def _projections(
    field: LearnedField, x0: Tensor, x1: Tensor, seeds: int, generator: torch.Generator
) -> Tensor:
    """Return the sums of both products over the points of each seed, ``(2, seeds)``."""
    h, margin = 1e-3, 0.01
    x0, x1 = x0.double(), x1.double()
    t = torch.rand(len(x0), generator=generator, device=x0.device, dtype=torch.float64)
    t = margin + (1 - 2 * margin) * t
    z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=torch.float64)
    given = None if field.interpolant.gamma.vanishes else z
    before, here, after = (field.interpolant.sample(time, x0, x1, given).xt for time in (t - h, t, t + h))
    velocity = field.velocity(t.float(), here.float()).double()
    along = velocity * (after - before) / (2 * h)
    return torch.stack([split(part, seeds).sum((1, 2)) for part in (along, velocity.square())])


def squared_wasserstein2(x: Tensor, y: Tensor) -> float:
    """Return the exact squared 2-Wasserstein distance, nan when points are not finite.

    By POT's network simplex where it is installed, which is faster above some hundred points.
    """
    if not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        return math.nan
    x, y = x.double().cpu(), y.double().cpu()
    try:
        import ot
    except ImportError:
        return wasserstein2(x, y) ** 2
    cost = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square().numpy()
    # POT's own limit is reached from some thousand points on, and the answer then is no distance.
    return float(ot.emd2([], [], cost, numItermax=10**9))


def distances(x: Tensor, y: Tensor, seeds: int) -> list[float]:
    """Return the squared distance between the points of each seed."""
    return [squared_wasserstein2(*part) for part in zip(split(x, seeds), split(y, seeds), strict=True)]


def attempted(columns: Sequence[str], work: Callable[[], dict[str, Cell]]) -> dict[str, Cell]:
    """Return the cells of a row, or why there are none: one that fails must not lose the others."""
    try:
        return work()
    except ImportError as error:
        why = str(error)
    except Exception as error:
        why = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
    return {column: missing(why) for column in columns}


def annealed(step: int, steps: int) -> float:
    """Return the learning rate's factor, from 1 to 0 along half a cosine."""
    return (1 + math.cos(math.pi * step / steps)) / 2


adam = partial(torch.optim.Adam, fused=True)
adamw = partial(torch.optim.AdamW, fused=True)
