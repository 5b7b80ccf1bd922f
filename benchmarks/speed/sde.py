"""Sampling by SDE: 128 Euler-Maruyama steps of 64 and of 2,048 points in the plane.

The field is one MLP of 4 x 64 with two heads, velocity and denoiser, on Linear with a Brownian gamma; epsilon
is 0.5. By hand is the loop that one writes without a library.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torchsde
from torch import Tensor, nn

from benchmarks.record import LIMIT, NOISE, OURS, PEER, Result, Table
from benchmarks.settings import Settings
from benchmarks.speed.ode import BATCHES, LIMIT_ROW, STEPS, network_alone
from benchmarks.speed.sampling import BASE, Contender, fill
from interpolants import MLP, Brownian, Heads, LearnedField, Linear, SDESampler

EPSILON, NEAR = 0.5, 1e-4


def run(settings: Settings) -> Result:
    """Return a table for each number of points."""
    tables = [_table(batch, settings) for batch in BATCHES]
    return Result(tables, settings={"steps": STEPS, "epsilon": EPSILON, "width": 64, "depth": 4})


def ratio(t: float) -> float:
    """Return epsilon / gamma, kept finite at the ends as a hand-written loop does."""
    inside = min(max(t, NEAR), 1 - NEAR)
    return EPSILON / math.sqrt(inside * (1 - inside))


@torch.no_grad()
def by_hand(network: Heads, x: Tensor) -> Tensor:
    """Return the points after the steps, in a loop."""
    h = 1 / STEPS
    for k in range(STEPS):
        heads = network(torch.full((len(x),), k / STEPS, device=x.device), x)
        drift = heads["velocity"] - ratio(k / STEPS) * heads["denoiser"]
        x = x + h * drift + math.sqrt(2 * EPSILON * h) * torch.randn_like(x)
    return x


class ByTorchsde(nn.Module):
    """The same SDE for torchsde."""

    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, network: Heads) -> None:
        super().__init__()
        self.network = network

    def f(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the drift."""
        heads = self.network(t.expand(len(y)), y)
        drift: Tensor = heads["velocity"] - ratio(float(t)) * heads["denoiser"]
        return drift

    def g(self, t: Tensor, y: Tensor) -> Tensor:
        """Return the noise."""
        return torch.full_like(y, math.sqrt(2 * EPSILON))

    @torch.no_grad()
    def sample(self, x: Tensor) -> Tensor:
        """Return the points by torchsde, with the Brownian path that it takes by default."""
        ends = torch.tensor([0.0, 1.0], device=x.device)
        path: Tensor = torchsde.sdeint(self, x, ends, method="euler", dt=1 / STEPS)
        return path[-1]


def _table(batch: int, settings: Settings) -> Table:
    generator = torch.Generator().manual_seed(settings.first_seed)
    network = Heads(MLP(2, out_dim=4, generator=generator)).to(settings.device)
    field = LearnedField(Linear(gamma=Brownian()), velocity=network, denoiser=network)
    x = torch.randn(batch, 2, generator=generator).to(settings.device)
    eager, compiled = (
        SDESampler(EPSILON, steps=STEPS, end_only=True, compile=flag) for flag in (False, True)
    )
    contenders: dict[str, Contender] = {
        BASE: (partial(by_hand, network, x), NOISE),
        LIMIT_ROW: (partial(_network_alone, network, x), LIMIT),
        "SDESampler": (lambda: eager.sample(field, x).final, OURS),
        "SDESampler(compile=True)": (lambda: compiled.sample(field, x).final, OURS),
        "SDESampler, a seed for each point": (
            lambda: eager.sample(field, x, seeds=range(batch)).final,
            OURS,
        ),
        "torchsde's default": (partial(ByTorchsde(network).sample, x), PEER),
    }
    table = Table(
        f"sde_{batch}",
        f"{STEPS} Euler-Maruyama steps of {batch:,} points, as a ratio of times",
        [f"to {BASE}"],
        note="An MLP of 4 x 64 with two heads in the plane, interleaved in one run. The graph is compiled "
        "beforehand. Seeds make each point's path its own, whatever the batch.",
        lower_is_better=True,
    )
    rounds = settings.pick(2, 30, 100) if batch < 1_000 else settings.pick(1, 8, 40)
    fill(table, contenders, settings, rounds=rounds)
    return table


def _network_alone(network: Heads, x: Tensor) -> Tensor:
    return network_alone(lambda t, x: network(t, x)["velocity"], x, STEPS)
