"""Sampling by ODE: 128 Euler steps of 64 and of 2,048 points, and dopri5 for 2,048, in the plane.

One MLP of 4 x 64 for all, with random weights. Euler by hand is the loop that one writes without a library;
with dopri5 the smooth network of random weights is scaled so that it takes some tens of evaluations, and by
hand is a call of torchdiffeq. All that take the same steps must arrive at the same points.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torchdiffeq import odeint

from benchmarks.peers import absence, installed
from benchmarks.record import LIMIT, NOISE, OURS, PEER, Result, Table
from benchmarks.settings import Settings
from benchmarks.speed.sampling import BASE, Contender, Sampling, fill
from interpolants import MLP, LearnedField, Linear, ODESampler

STEPS, BATCHES = 128, (64, 2_048)
TOLERANCE, SCALE = 1e-5, 2.25
LIMIT_ROW = "the network alone"
DIFFEQ = "torchdiffeq"


def run(settings: Settings) -> Result:
    """Return the tables."""
    tables = [_euler(batch, settings) for batch in BATCHES]
    tables.append(_dopri5(BATCHES[-1], settings))
    return Result(tables, settings={"steps": STEPS, "tolerance": TOLERANCE, "width": 64, "depth": 4})


@torch.no_grad()
def by_hand(network: nn.Module, x: Tensor) -> Tensor:
    """Return the points after Euler's steps, in a loop."""
    h = 1 / STEPS
    for k in range(STEPS):
        t = torch.full((len(x),), k / STEPS, device=x.device)
        x = x + h * network(t, x)
    return x


@torch.no_grad()
def network_alone(network: Callable[[Tensor, Tensor], Tensor], x: Tensor, evaluations: int) -> Tensor:
    """Evaluate the network and do nothing with it."""
    t = torch.zeros(len(x), device=x.device)
    answer = x
    for _ in range(evaluations):
        answer = network(t, x)
    return answer


@torch.no_grad()
def by_torchdiffeq(network: nn.Module, x: Tensor, method: str) -> Tensor:
    """Return the points by torchdiffeq alone."""
    times = torch.linspace(0, 1, STEPS + 1 if method == "euler" else 2, device=x.device)

    def velocity(t: Tensor, y: Tensor) -> Tensor:
        answer: Tensor = network(t.expand(len(y)), y)
        return answer

    path: Tensor = odeint(velocity, x, times, method=method, rtol=TOLERANCE, atol=TOLERANCE)
    return path[-1]


def torchcfm(network: MLP, x: Tensor, method: str) -> Sampling:
    """Return sampling as torchcfm's examples do it: its wrapper in torchdyn's NeuralODE, or torchdiffeq."""
    from torchcfm.utils import torch_wrapper

    wrapped = torch_wrapper(network.layers)  # It joins points and times as this network does.
    times = torch.linspace(0, 1, STEPS + 1 if method == "euler" else 2, device=x.device)
    tolerance = {"rtol": TOLERANCE, "atol": TOLERANCE}
    try:
        from torchdyn.core import NeuralODE
    except ImportError:
        integrate = partial(odeint, wrapped, x, times, method=method, **tolerance)
    else:
        node = NeuralODE(wrapped, solver=method, sensitivity="adjoint", **tolerance)
        integrate = partial(node.trajectory, x, t_span=times)
    return lambda: _last(integrate)


def flow_matching(network: nn.Module, x: Tensor, method: str) -> Sampling:
    """Return sampling by flow_matching's solver."""
    from flow_matching.solver import ODESolver

    solver = ODESolver(lambda x, t: network(t.expand(len(x)), x))
    step = 1 / STEPS if method == "euler" else None
    ends = torch.tensor([0.0, 1.0], device=x.device)
    return partial(
        solver.sample, x, step_size=step, method=method, rtol=TOLERANCE, atol=TOLERANCE, time_grid=ends
    )


def azula(network: nn.Module, x: Tensor) -> Sampling:
    """Return azula's Euler sampler, for which the network is a denoiser: it arrives elsewhere."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import RectifiedSchedule
    from azula.sample import EulerSampler

    class Wrapped(Denoiser):
        def __init__(self) -> None:
            super().__init__()
            self.schedule = RectifiedSchedule()
            self.network = network

        def forward(self, x_t: Tensor, t: Tensor) -> DiracPosterior:
            return DiracPosterior(mean=self.network(t.expand(len(x_t)), x_t))

    sampler = EulerSampler(Wrapped(), steps=STEPS, silent=True, device=x.device)
    return partial(sampler, x)


def _euler(batch: int, settings: Settings) -> Table:
    generator = torch.Generator().manual_seed(settings.first_seed)
    network = MLP(2, generator=generator).to(settings.device)
    x = torch.randn(batch, 2, generator=generator).to(settings.device)
    field = LearnedField(Linear(), velocity=network)
    eager, compiled = (ODESampler(steps=STEPS, end_only=True, compile=flag) for flag in (False, True))
    contenders: dict[str, Contender] = {
        BASE: (partial(by_hand, network, x), NOISE),
        LIMIT_ROW: (partial(network_alone, network, x, STEPS), LIMIT),
        "ODESampler": (lambda: eager.sample(field, x).final, OURS),
        "ODESampler(compile=True)": (lambda: compiled.sample(field, x).final, OURS),
        DIFFEQ: (partial(by_torchdiffeq, network, x, "euler"), PEER),
        **_peers(network, x, "euler", settings),
    }
    if "azula" in settings.peers:
        there = installed("azula")
        contenders["azula"] = (azula(network, x) if there else absence("azula"), PEER)
    table = Table(
        f"ode_euler_{batch}",
        f"{STEPS} Euler steps of {batch:,} points, as a ratio of times",
        [f"to {BASE}", f"to {DIFFEQ}"],
        note="An MLP of 4 x 64 in the plane, interleaved in one run. The graph is compiled beforehand. "
        "azula's steps take the network for a denoiser.",
        lower_is_better=True,
    )
    rounds = settings.pick(2, 30, 100) if batch < 1_000 else settings.pick(1, 12, 40)
    ends = fill(table, contenders, settings, rounds=rounds)
    # Steps of single precision, 128 of them.
    _check_same({name: end for name, end in ends.items() if name not in (LIMIT_ROW, "azula")}, 1e-4)
    return table


def _dopri5(batch: int, settings: Settings) -> Table:
    generator = torch.Generator().manual_seed(settings.first_seed)
    network = MLP(2, activation=nn.SiLU, generator=generator).to(settings.device)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= SCALE
    x = torch.randn(batch, 2, generator=generator).to(settings.device)
    field = LearnedField(Linear(), velocity=network)
    sampler = ODESampler("dopri5", steps=1, rtol=TOLERANCE, atol=TOLERANCE)
    evaluations = sampler.sample(field, x).evaluations
    contenders: dict[str, Contender] = {
        BASE: (partial(by_torchdiffeq, network, x, "dopri5"), NOISE),
        LIMIT_ROW: (partial(network_alone, network, x, evaluations), LIMIT),
        "ODESampler": (lambda: sampler.sample(field, x).final, OURS),
        **_peers(network, x, "dopri5", settings),
    }
    table = Table(
        f"ode_dopri5_{batch}",
        f"dopri5 for {batch:,} points, as a ratio of times",
        [f"to {BASE}"],
        note=f"rtol = atol = 1e-5, {evaluations} evaluations of an MLP of 4 x 64 with SiLU in the plane, "
        "interleaved in one run. By hand is torchdiffeq alone.",
        lower_is_better=True,
    )
    ends = fill(table, contenders, settings, rounds=settings.pick(1, 12, 40))
    # A hundred times the tolerance.
    _check_same({name: end for name, end in ends.items() if name != LIMIT_ROW}, 100 * TOLERANCE)
    return table


def _peers(network: MLP, x: Tensor, method: str, settings: Settings) -> dict[str, Contender]:
    makers = {"torchcfm": torchcfm, "flow_matching": flow_matching}
    return {
        name: (make(network, x, method) if installed(name) else absence(name), PEER)
        for name, make in makers.items()
        if name in settings.peers
    }


@torch.no_grad()
def _last(integrate: partial[Tensor]) -> Tensor:
    return integrate()[-1]


def _check_same(ends: dict[str, Tensor], tolerance: float) -> None:
    """Raise RuntimeError unless all arrive where the loop by hand does."""
    for name, end in ends.items():
        apart = float(((end - ends[BASE]).abs() / (1 + ends[BASE].abs())).max())
        if not apart <= tolerance:
            raise RuntimeError(f"{name} arrives {apart:.1e} away from the loop by hand: not the same work")
