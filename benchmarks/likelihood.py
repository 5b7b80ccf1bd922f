"""Exact log-likelihood beside flow_matching's and a loop written by hand, interleaved in one run.

    pip install flow_matching
    python -m benchmarks.likelihood [--rounds 20]

The same network for all, an MLP of 4 x 64 with SiLU (smooth, so that an adaptive method meets a smooth
divergence) whose random weights are scaled by 2.25: the flow then takes some tens of evaluations, as a
trained one does. Batch 256, dopri5, rtol = atol = 1e-5, the exact divergence. Every round takes one call of
each in turn; the figure is the median over rounds of the ratio to log_likelihood's call of the same round.
log_likelihood stands in the table twice: the second row is the noise. flow_matching and the loop by hand step
past the end and interpolate back, which may cost them a step more. The values are compared before anything
is timed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from benchmarks.machine import save
from interpolants import MLP, LearnedField, Linear, ODESampler
from interpolants.samplers.likelihood import log_likelihood, standard_normal_log_prob

try:
    from flow_matching.solver import ODESolver
except ImportError:
    ODESolver = None

BATCH, TOLERANCE, SCALE = 256, 1e-5, 2.25


class Counting(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.evaluations = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the network's answer, counted."""
        self.evaluations += 1
        return self.network(t, x)


def ours(network: Counting, x1: Tensor) -> Tensor:
    field = LearnedField(Linear(), velocity=network)
    sampler = ODESampler("dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    return log_likelihood(field, x1, standard_normal_log_prob, sampler=sampler).value


def by_hand(network: Counting, x1: Tensor) -> Tensor:
    def derivative(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = state[0].detach().requires_grad_()
            velocity = network(t.expand(len(x)), x)
            columns = [column.sum() for column in velocity.unbind(1)]
        divergence = torch.zeros(len(x))
        for i, column in enumerate(columns):
            (row,) = torch.autograd.grad(column, x, retain_graph=True)
            divergence += row[:, i]
        return velocity.detach(), divergence

    with torch.no_grad():
        points, logs = odeint(
            derivative,
            (x1, torch.zeros(len(x1))),
            torch.tensor([1.0, 0.0]),
            method="dopri5",
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
    return standard_normal_log_prob(points[-1]) + logs[-1]


def flow_matching(network: Counting, x1: Tensor) -> Tensor:
    solver = ODESolver(lambda x, t: network(t.expand(len(x)), x))
    _, value = solver.compute_likelihood(
        x1.clone(),
        standard_normal_log_prob,
        step_size=None,
        method="dopri5",
        rtol=TOLERANCE,
        atol=TOLERANCE,
        exact_divergence=True,
    )
    return value


def seconds(call: Callable[[], Tensor]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(dim: int, rounds: int) -> dict[str, object]:
    torch.manual_seed(0)
    network = MLP(dim, activation=nn.SiLU)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= SCALE
    counting, x1 = Counting(network), torch.randn(BATCH, dim)
    contenders = {
        "log_likelihood": ours,
        "log_likelihood again (noise)": ours,
        "by hand": by_hand,
        "flow_matching": flow_matching,
    }
    calls = {name: partial(contender, counting, x1) for name, contender in contenders.items()}
    values, evaluations = {}, {}
    for name, call in calls.items():
        counting.evaluations = 0
        values[name] = call()
        evaluations[name] = counting.evaluations
    reference = values["by hand"]
    apart = max(float(((value - reference).abs() / (1 + reference.abs())).max()) for value in values.values())
    # A hundred times the tolerance: it holds for the root mean square over the batch and for each step.
    if apart > 100 * TOLERANCE:
        raise SystemExit(f"the contenders differ by {apart:.1e}: they do not do the same work")
    timed = [{name: seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    print(f"\nd = {dim}, values within {apart:.1e} of each other, relatively")
    print(f"{'':32}{'ratio':>8}{'quartiles':>16}{'ms/call':>10}{'evaluations':>14}")
    figures = {}
    for name in contenders:
        ratios = [row[name] / row["log_likelihood"] for row in timed]
        low, middle, high = statistics.quantiles(ratios, n=4)
        milliseconds = statistics.median(row[name] for row in timed) * 1e3
        figures[name] = {
            "ratio": middle,
            "quartiles": [low, high],
            "milliseconds_per_call": milliseconds,
            "evaluations": evaluations[name],
        }
        print(
            f"{name:32}{middle:8.2f}{f'{low:.2f}-{high:.2f}':>16}{milliseconds:10.1f}{evaluations[name]:14}"
        )
    return {"greatest_relative_difference": apart, "rows": figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=20)
    rounds = parser.parse_args().rounds
    if ODESolver is None:
        raise SystemExit("this compares with flow_matching, which is missing: pip install flow_matching")
    torch.set_num_threads(1)
    figures = {f"d = {dim}": compare(dim, rounds) for dim in (2, 64)}
    print(save("likelihood", {"rounds": rounds, **figures}))


if __name__ == "__main__":
    main()
