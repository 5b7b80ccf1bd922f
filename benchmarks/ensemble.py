"""Several seeds of a small network trained in one go, by torch.func.vmap in place of a loop over seeds.

The points of all seeds lie one behind the other, ``(seeds * B, *D)``, so that an :class:`Ensemble` is a
network like any other: the library's losses, trainer, fields and samplers take it as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from interpolants import Coupling, Trainer
from interpolants.losses import Loss


class Ensemble(nn.Module):
    """Networks of one architecture, one for each seed, which see the rows of their own seed only.

    Args:
        build: Makes one network; called once for each seed, with torch's global generator seeded by it and
            put back afterwards.
        seeds: The seeds.

    Example:
        >>> from interpolants import MLP
        >>> ensemble = Ensemble(lambda: MLP(2), seeds=[0, 1, 2])
        >>> ensemble(torch.zeros(12), torch.zeros(12, 2)).shape  # four points for each of three seeds
        torch.Size([12, 2])
    """

    def __init__(self, build: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        super().__init__()
        members = []
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                members.append(build())
        stacked, buffers = stack_module_state(members)
        if buffers:
            raise ValueError(f"networks with buffers cannot be stacked; got {', '.join(buffers)}")
        self.seeds = tuple(seeds)
        self._names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(stacked[name].detach()) for name in stacked])
        # In a list, so that its parameters are nobody's.
        self._skeleton = [members[0].to("meta")]

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the answers, each row by the network of its seed."""
        weights = dict(zip(self._names, self.stacked, strict=True))
        count = len(self.seeds)
        answers = vmap(self._one)(weights, t.reshape(count, -1), x.reshape(count, -1, *x.shape[1:]))
        return answers.flatten(0, 1)

    def _one(self, weights: dict[str, Tensor], t: Tensor, x: Tensor) -> Tensor:
        return functional_call(self._skeleton[0], weights, (t, x))

    def member(self, build: Callable[[], nn.Module], index: int) -> nn.Module:
        """Return the network of one seed by itself."""
        with torch.random.fork_rng(devices=[]):
            network = build()
        names = dict(zip(self._names, self.stacked, strict=True))
        network.load_state_dict({name: weight[index].detach().cpu() for name, weight in names.items()})
        return network.to(self.stacked[0].device)


class BySeed(nn.Module):
    """An ensemble for antithetic losses, whose rows are all seeds' pairs with z, then all seeds' with -z."""

    def __init__(self, ensemble: Ensemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the answers, each row by the network of its seed."""
        seeds = len(self.ensemble.seeds)
        answers = self.ensemble(*(swapped(rows, 2, seeds) for rows in (t, x)))
        return swapped(answers, seeds, 2)


def swapped(rows: Tensor, first: int, second: int) -> Tensor:
    """Return rows that lie as ``(first, second, B)`` in the order ``(second, first, B)``."""
    return rows.reshape(first, second, -1, *rows.shape[1:]).transpose(0, 1).flatten(0, 2)


def split(points: Tensor, count: int) -> Tensor:
    """Return the rows of each seed, from ``(seeds * B, *D)`` to ``(seeds, B, *D)``."""
    return points.reshape(count, -1, *points.shape[1:])


@dataclass(frozen=True)
class PerSeed(Coupling):
    """A coupling within the rows of each seed."""

    coupling: Coupling
    seeds: int

    def source_index(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Return which row of ``x0`` goes to each row of ``x1``; see :class:`interpolants.Coupling`."""
        rows = len(x0) // self.seeds
        found = [
            self.coupling.source_index(one, other, generator=generator)
            for one, other in zip(split(x0, self.seeds), split(x1, self.seeds), strict=True)
        ]
        return torch.cat(
            [
                torch.arange(rows, device=x0.device) + k * rows
                if index is None
                else index.to(x0.device) + k * rows
                for k, index in enumerate(found)
            ]
        )


@dataclass
class Pairs:
    """Endless minibatches ``(x0, x1)`` of all seeds, drawn by ``draw(rows, generator)``; a trainer's data."""

    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
    rows: int
    generator: torch.Generator = field(default_factory=torch.Generator)

    def __iter__(self) -> Pairs:
        return self

    def __next__(self) -> tuple[Tensor, Tensor]:
        return self.draw(self.rows, self.generator)


def sum_over_seeds(seeds: int) -> Callable[[Tensor], Tensor]:
    """Return a loss's weight that makes the mean over all rows the sum of the means over each seed's."""
    return lambda t: torch.full_like(t, float(seeds))


def train(
    network: nn.Module,
    loss: Loss,
    pairs: Pairs,
    *,
    steps: int,
    optimizer: Callable[..., torch.optim.Optimizer],
    schedule: Callable[[int], float] | None = None,
    compile: bool = False,
) -> float:
    """Train by the library's own trainer and return the seconds it took, the first step left out.

    Times, latent noise and random couplings come from the generator of the pairs.
    """
    if isinstance(network, Ensemble) and loss.antithetic and not loss.interpolant.gamma.vanishes:
        network = BySeed(network)
    trainer = Trainer(
        network,
        loss,
        pairs,
        steps=steps,
        optimizer=optimizer,
        schedule=schedule,
        compile=compile,
        generator=pairs.generator,
    )
    next(trainer)
    started = time.perf_counter()
    for _ in trainer:
        pass
    return time.perf_counter() - started


def train_by_hand(
    network: nn.Module,
    loss: Callable[[nn.Module, Tensor, Tensor], Tensor],
    pairs: Pairs,
    *,
    steps: int,
    optimizer: Callable[..., torch.optim.Optimizer],
    schedule: Callable[[int], float] | None = None,
) -> float:
    """Train by a plain loop, as a peer's README does, and return the seconds, the first step left out.

    Args:
        network: The network.
        loss: Its loss ``(network, x0, x1) -> ()``: a sum over seeds of means over their rows.
        pairs: The minibatches.
        steps: How many steps.
        optimizer: Makes the optimiser.
        schedule: The factor of the learning rate by the number of steps made.
    """
    made = optimizer(network.parameters())
    rates = [group["lr"] for group in made.param_groups]
    started = time.perf_counter()
    for step in range(steps):
        if schedule is not None:
            for group, rate in zip(made.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step)
        made.zero_grad()
        loss(network, *next(pairs)).backward()
        made.step()
        if step == 0:
            started = time.perf_counter()
    return time.perf_counter() - started
