"""The exact log-likelihood of 256 points, d = 2 and 64: dopri5 at 1e-5 with the exact divergence.

The same network for all, an MLP of 4 x 64 with SiLU (smooth, so that an adaptive method meets a smooth
divergence) whose random weights are scaled by 2.25: the flow then takes some tens of evaluations, as a
trained one does. By hand is torchdiffeq with one backward pass for each dimension; the limit has the
derivatives of this very network written out in forward mode, which no field in general allows. The values are
compared before anything is timed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from benchmarks.peers import absence, installed
from benchmarks.record import LIMIT, NOISE, OURS, PEER, Cell, Result, Table, missing, plain
from benchmarks.settings import Settings
from benchmarks.timing import AGAIN, Timings, Work, interleaved
from interpolants import MLP, LearnedField, Linear, ODESampler
from interpolants.samplers.likelihood import Exact, Likelihood, log_likelihood, standard_normal_log_prob

BATCH, TOLERANCE, SCALE = 256, 1e-5, 2.25
# Directions at once in the forward mode by hand: the quickest of 4, 16, 32 and 64 at d = 64.
DIRECTIONS = 16

BASE = "by hand"
FORWARD = "by hand, forward mode of this network"
EAGER = "log_likelihood"
COMPILED = "log_likelihood, Exact(compile=True)"
PEER_NAME = "flow_matching"
BASES = {"to by hand": BASE, "to flow_matching": PEER_NAME}
COUNT = "evaluations"

Contender = Callable[[nn.Module, Tensor], Tensor]
Rates = Callable[[nn.Module, Tensor, Tensor], tuple[Tensor, Tensor]]


def run(settings: Settings) -> Result:
    """Return a table for each dimension."""
    tables = [_table(dim, settings) for dim in settings.pick((2,), (2, 64), (2, 64))]
    return Result(tables, settings={"batch": BATCH, "tolerance": TOLERANCE, "width": 64, "depth": 4})


class Counting(nn.Module):
    """A network that counts how often it is asked."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.evaluations = 0

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the network's answer, counted."""
        self.evaluations += 1
        answer: Tensor = self.network(t, x)
        return answer


def ours(divergence: Exact, network: nn.Module, x1: Tensor) -> Tensor:
    """Return the log densities by log_likelihood."""
    return _likelihood(divergence, network, x1).value


def by_hand(rates: Rates, network: nn.Module, x1: Tensor) -> Tensor:
    """Return the log densities by torchdiffeq and a function for the velocity and its divergence."""

    def derivative(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return rates(network, t.expand(len(x1)), state[0])

    with torch.no_grad():
        points, logs = odeint(
            derivative,
            (x1, x1.new_zeros(len(x1))),
            x1.new_tensor([1.0, 0.0]),
            method="dopri5",
            rtol=TOLERANCE,
            atol=TOLERANCE,
        )
    return standard_normal_log_prob(points[-1]) + logs[-1]


def backward_passes(network: nn.Module, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return velocity and divergence by one backward pass for each dimension."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        velocity = network(t, x)
        columns = [column.sum() for column in velocity.unbind(1)]
    divergence = x.new_zeros(len(x))
    for i, column in enumerate(columns):
        (row,) = torch.autograd.grad(column, x, retain_graph=True)
        divergence += row[:, i]
    return velocity.detach(), divergence


def forward_mode(network: nn.Module, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return velocity and divergence of an MLP with SiLU, its derivatives written out."""
    if isinstance(network, Counting):
        network.evaluations += 1
    first, *middle, last = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    hidden, slopes = torch.cat([x, t.unsqueeze(1)], 1), []
    for layer in (first, *middle):
        before = layer(hidden)
        gate = before.sigmoid()
        hidden = before * gate
        slopes.append(gate + hidden * (1 - gate))
    divergence = x.new_zeros(len(x))
    for start in range(0, x.shape[1], DIRECTIONS):
        some = slice(start, min(start + DIRECTIONS, x.shape[1]))
        tangents = first.weight[:, some].T.unsqueeze(1) * slopes[0]
        for layer, slope in zip(middle, slopes[1:], strict=True):
            tangents = (tangents @ layer.weight.T).mul_(slope)
        divergence += torch.einsum("kbh,kh->b", tangents, last.weight[some])
    return last(hidden), divergence


def flow_matching(network: nn.Module, x1: Tensor) -> Tensor:
    """Return the log densities by flow_matching's solver."""
    from flow_matching.solver import ODESolver

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


def network_of(dim: int, settings: Settings) -> MLP:
    """Return the network of a flow that takes some tens of evaluations."""
    generator = torch.Generator().manual_seed(settings.first_seed)
    network = MLP(dim, activation=nn.SiLU, generator=generator).to(settings.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= SCALE
    return network


@functools.cache
def _field_of(network: nn.Module) -> LearnedField:
    """Return the one field of a network: a graph is kept for as long as its field."""
    return LearnedField(Linear(), velocity=network)


def _likelihood(divergence: Exact, network: nn.Module, x1: Tensor) -> Likelihood:
    sampler = ODESampler("dopri5", rtol=TOLERANCE, atol=TOLERANCE)
    return log_likelihood(
        _field_of(network), x1, standard_normal_log_prob, sampler=sampler, divergence=divergence
    )


def _contenders(settings: Settings) -> dict[str, Contender]:
    found: dict[str, Contender] = {
        BASE: partial(by_hand, backward_passes),
        FORWARD: partial(by_hand, forward_mode),
        EAGER: partial(ours, Exact()),
        EAGER + AGAIN: partial(ours, Exact()),
        COMPILED: partial(ours, Exact(compile=True)),
    }
    if PEER_NAME in settings.peers and installed(PEER_NAME):
        found[PEER_NAME] = flow_matching
    return found


def _table(dim: int, settings: Settings) -> Table:
    network = network_of(dim, settings)
    generator = torch.Generator().manual_seed(settings.first_seed)
    x1 = torch.randn(BATCH, dim, generator=generator).to(settings.device)
    contenders = _contenders(settings)
    values, counts, problems = _first(contenders, network, x1)
    works: dict[str, Work] = {name: partial(contenders[name], network, x1) for name in values}
    table = Table(
        f"likelihood_{dim}",
        f"Exact log-likelihood of {BATCH} points, d = {dim}, as a ratio of times",
        [*_bases(settings), COUNT],
        note="dopri5, rtol = atol = 1e-5, an MLP of 4 x 64 with SiLU, interleaved in one run; values within "
        f"{_apart(values):.0e} of each other, relatively. The limit knows this network's derivatives.",
        lower_is_better=True,
    )
    rounds = settings.rounds or settings.pick(2, 12 if dim > 2 else 30, 30 if dim > 2 else 100)
    times = interleaved(works, rounds=rounds, device=settings.device, warm_up=1)
    for name, kind in _rows(settings).items():
        cells = {column: missing(problems.get(name, absence(PEER_NAME))) for column in table.columns[:1]}
        if name in times.seconds:
            cells = _cells(times, name, settings)
        if name in counts:
            cells[COUNT] = plain(counts[name])
        table.add(name, cells, kind)
    return table


def _first(
    contenders: dict[str, Contender], network: nn.Module, x1: Tensor
) -> tuple[dict[str, Tensor], dict[str, int], dict[str, str]]:
    """Return the values of each contender, how often it asks the network, and why others give none."""
    values, counts, problems = {}, {}, {}
    for name, contender in contenders.items():
        try:
            values[name], counts[name] = _asked(name, contender, network, x1)
        except RuntimeError as error:
            problems[name] = str(error).splitlines()[0]
    return values, counts, problems


def _rows(settings: Settings) -> dict[str, str]:
    rows = {
        BASE: NOISE,
        BASE + AGAIN: NOISE,
        FORWARD: LIMIT,
        EAGER: OURS,
        EAGER + AGAIN: NOISE,
        COMPILED: OURS,
    }
    return {**rows, PEER_NAME: PEER} if PEER_NAME in settings.peers else rows


def _bases(settings: Settings) -> dict[str, str]:
    return {column: base for column, base in BASES.items() if base == BASE or base in settings.peers}


def _cells(times: Timings, name: str, settings: Settings) -> dict[str, Cell]:
    return {
        column: Timings(times.seconds, base).cell(name) if base in times.seconds else missing(absence(base))
        for column, base in _bases(settings).items()
    }


def _asked(name: str, contender: Contender, network: nn.Module, x1: Tensor) -> tuple[Tensor, int]:
    """Return the values of a contender, and how often it asked the network."""
    if name == COMPILED:  # A count inside a graph would make another graph for every number.
        found = _likelihood(Exact(compile=True), network, x1)
        return found.value, found.evaluations
    counting = Counting(network)
    return contender(counting, x1), counting.evaluations


def _apart(values: dict[str, Tensor]) -> float:
    """Return the greatest relative difference from the values by hand.

    Raises:
        RuntimeError: When the contenders do not do the same work.
    """
    expected = values[BASE]
    differences = [(value - expected).abs() / (1 + expected.abs()) for value in values.values()]
    apart = float(torch.stack(differences).max())  # nan when there is one
    # A hundred times the tolerance: it holds for the root mean square over the batch and for each step.
    if not apart <= 100 * TOLERANCE:
        raise RuntimeError(f"the contenders differ by {apart:.1e}: they do not do the same work")
    return apart
