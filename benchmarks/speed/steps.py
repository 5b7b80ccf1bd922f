"""One training step, learning the linear path's velocity: by hand, by the Trainer, by each peer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import PEERS, absence, installed
from benchmarks.record import PEER, Cell, Table, missing
from benchmarks.settings import Settings
from benchmarks.timing import Timings, Work
from interpolants import Linear, Regression, Trainer
from interpolants.data import RandomPairs

Optimizers = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
PairLoss = Callable[[nn.Module, Tensor, Tensor], Tensor]

ADAM = partial(torch.optim.Adam, lr=1e-3)


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        network: Makes a network, called as ``network(t, x)``, on the device of the points.
        x0s: All source points.
        x1s: All target points, as many.
        batch: The rows of a minibatch.
    """

    network: Callable[[], nn.Module]
    x0s: Tensor
    x1s: Tensor
    batch: int

    def draw(self) -> tuple[Tensor, Tensor]:
        """Return a minibatch, each row with replacement."""
        index = partial(torch.randint, len(self.x0s), (self.batch,), device=self.x0s.device)
        return self.x0s[index()], self.x1s[index()]


def loop(task: Task, pair_loss: PairLoss) -> Work:
    """Return a step of the plain loop with a loss of ``(network, x0, x1)``."""
    network = task.network()
    optimizer = ADAM(network.parameters())

    def step() -> Tensor:
        x0, x1 = task.draw()
        optimizer.zero_grad()
        loss = pair_loss(network, x0, x1)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def trainer(task: Task, optimizer: Optimizers | None, *, compile: bool = False) -> Work:
    """Return a step of the Trainer."""
    made = Trainer(
        task.network(),
        Regression(Linear()),
        RandomPairs(task.x0s, task.x1s, task.batch),
        steps=10**12,
        optimizer=optimizer,
        compile=compile,
    )
    return partial(next, made)


def by_hand(network: nn.Module, x0: Tensor, x1: Tensor) -> Tensor:
    """Return the loss as one writes it out."""
    t = torch.rand(len(x0), device=x0.device)
    column = t.view(-1, *[1] * (x0.ndim - 1))
    return functional.mse_loss(network(t, (1 - column) * x0 + column * x1), x1 - x0)


def torchcfm() -> PairLoss:
    """Return the loss of torchcfm's examples."""
    from torchcfm.conditional_flow_matching import ConditionalFlowMatcher

    matcher = ConditionalFlowMatcher(sigma=0.0)

    def pair_loss(network: nn.Module, x0: Tensor, x1: Tensor) -> Tensor:
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        return torch.mean((network(t, xt) - ut) ** 2)

    return pair_loss


def flow_matching() -> PairLoss:
    """Return the loss of flow_matching's examples."""
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler

    path = AffineProbPath(scheduler=CondOTScheduler())

    def pair_loss(network: nn.Module, x0: Tensor, x1: Tensor) -> Tensor:
        t = torch.rand(len(x0), device=x0.device)
        sample = path.sample(t=t, x_0=x0, x_1=x1)
        return torch.pow(network(sample.t, sample.x_t) - sample.dx_t, 2).mean()

    return pair_loss


def azula() -> PairLoss:
    """Return the loss of azula's rectified schedule, from noise that it draws itself in place of ``x0``."""
    from azula.denoise import SimpleDenoiser
    from azula.noise import RectifiedSchedule

    denoisers: dict[nn.Module, Any] = {}

    def pair_loss(network: nn.Module, x0: Tensor, x1: Tensor) -> Tensor:
        if network not in denoisers:
            denoisers[network] = SimpleDenoiser(_TimeLast(network), RectifiedSchedule())
        loss: Tensor = denoisers[network].loss(x1, torch.rand(len(x1), device=x1.device))
        return loss

    return pair_loss


class _TimeLast(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = self.network(t, x)
        return answer


LOSSES: dict[str, Callable[[], PairLoss]] = {
    "torchcfm": torchcfm,
    "flow_matching": flow_matching,
    "azula": azula,
}
AZULA_NOTE = "azula learns a denoiser from noise that it draws itself: it takes no sources."


def peers(task: Task, settings: Settings) -> dict[str, Work]:
    """Return a step of each peer that was asked for and is installed."""
    assert set(LOSSES) <= set(PEERS)
    asked = [name for name in LOSSES if name in settings.peers and installed(name)]
    return {name: loop(task, LOSSES[name]()) for name in asked}


def add_peers(table: Table, columns: Callable[[str], dict[str, Cell]], settings: Settings) -> None:
    """Add a row for each peer that was asked for: its cells, or that it is not installed."""
    for name in LOSSES:
        if name in settings.peers:
            absent = {table.columns[0]: missing(absence(name))}
            table.add(name, columns(name) if installed(name) else absent, PEER)


def ratios(times: Timings, name: str, bases: dict[str, str]) -> dict[str, Cell]:
    """Return the ratio of a contender to each base, by column; a base that was not timed has none."""
    return {
        column: Timings(times.seconds, base).cell(name) if base in times.seconds else missing(absence(base))
        for column, base in bases.items()
    }
