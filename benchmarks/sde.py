"""Euler-Maruyama through SDESampler, beside a loop by hand and torchsde's default, interleaved in one run.

    python -m benchmarks.sde [--rounds 40] [--device cpu]

The field is one MLP of the demo's size (4 x 64 ReLU) with two heads, velocity and denoiser, on Linear with a
Brownian gamma; epsilon is 0.5. Every contender makes the same steps from the same points. The first table
is 128 steps of 2,048 points, the second 100 steps of 1,000 points, where torchsde's own Brownian path is
slowest. The figure is the median over rounds of the ratio to the hand-written loop of the same round, which
stands in the table twice: the second row is the noise.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
import torchsde

from benchmarks.machine import save
from interpolants import MLP, Brownian, Heads, LearnedField, Linear, SDESampler

EPSILON = 0.5
NEAR = 1e-4


def ratio(t: float) -> float:
    """Return epsilon / gamma, kept finite at the ends as a hand-written loop does."""
    inside = min(max(t, NEAR), 1 - NEAR)
    return EPSILON / math.sqrt(inside * (1 - inside))


@torch.no_grad()
def by_hand(network: Heads, x: torch.Tensor, steps: int) -> torch.Tensor:
    h = 1 / steps
    for k in range(steps):
        heads = network(torch.full((len(x),), k / steps, device=x.device), x)
        drift = heads["velocity"] - ratio(k / steps) * heads["denoiser"]
        x = x + h * drift + math.sqrt(2 * EPSILON * h) * torch.randn_like(x)
    return x


class ByTorchsde(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, network: Heads) -> None:
        super().__init__()
        self.network = network

    def f(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        heads = self.network(t.expand(len(y)), y)
        return heads["velocity"] - ratio(float(t)) * heads["denoiser"]

    def g(self, t: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return torch.full_like(y, math.sqrt(2 * EPSILON))


@torch.no_grad()
def by_default(sde: ByTorchsde, x: torch.Tensor, steps: int) -> torch.Tensor:
    ends = torch.tensor([0.0, 1.0], device=x.device)
    return torchsde.sdeint(sde, x, ends, method="euler", dt=1 / steps)[-1]


def seconds(work: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    started = time.perf_counter()
    work()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def table(batch: int, steps: int, rounds: int, device: str) -> dict[str, dict[str, object]]:
    network = Heads(MLP(2, out_dim=4)).to(device)
    field = LearnedField(Linear(gamma=Brownian()), velocity=network, denoiser=network)
    x = torch.randn(batch, 2, device=device)
    sampler = SDESampler(EPSILON, steps=steps, end_only=True)
    contenders = {
        "by hand": partial(by_hand, network, x, steps),
        "by hand again (noise)": partial(by_hand, network, x, steps),
        "SDESampler": partial(sampler.sample, field, x),
        "SDESampler, a seed for each point": partial(sampler.sample, field, x, seeds=range(batch)),
        "torchsde's default": partial(by_default, ByTorchsde(network), x, steps),
    }
    for work in contenders.values():
        work()
    rows = []
    for k in range(rounds):
        # Another order each round: a neighbour's load then falls on all alike.
        names = list(contenders)
        names = names[k % len(names) :] + names[: k % len(names)]
        rows.append({name: seconds(contenders[name], device) for name in names})
    figures: dict[str, dict[str, object]] = {}
    print(f"\n{steps} steps of {batch:,} points\n{'':36}{'ratio':>8}{'quartiles':>16}{'ms':>10}")
    for name in contenders:
        low, middle, high = statistics.quantiles([row[name] / row["by hand"] for row in rows], n=4)
        milliseconds = statistics.median(row[name] for row in rows) * 1e3
        figures[name] = {"ratio": middle, "quartiles": [low, high], "milliseconds": milliseconds}
        print(f"{name:36}{middle:8.3f}{f'{low:.3f}-{high:.3f}':>16}{milliseconds:10.1f}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tables = {
        "128 steps of 2048 points": table(2_048, 128, given.rounds, given.device),
        "100 steps of 1000 points": table(1_000, 100, max(4, given.rounds // 4), given.device),
    }
    print(save("sde", {"rounds": given.rounds, "device": given.device, "tables": tables}))


if __name__ == "__main__":
    main()
