"""The checkerboard's negative log-likelihood, whose floor is known: ln 32 nats.

Networks are trained to carry a normal law to the uniform law on 8 of the 16 cells of [-4, 4] x [-4, 4], and
asked for the density of points they have not seen, by the flow and dopri5. No model can be below the floor by
more than chance. Where there is a denoiser there is the SDE's evidence bound too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.accuracy._planar import (
    CALIBRATED,
    INDEPENDENT,
    TEST,
    TRAINING,
    Bench,
    Contender,
    Recipe,
    adam,
    annealed,
    attempted,
    ours,
    peers,
)
from benchmarks.ensemble import Ensemble, split
from benchmarks.record import FLOOR, PEER, Cell, Result, Table, measured, missing, plain
from benchmarks.settings import Settings
from interpolants import (
    MLP,
    Constant,
    Denoiser,
    LearnedField,
    ODESampler,
    SDESampler,
    log_likelihood,
    sde_log_likelihood_bound,
    standard_normal_log_prob,
)
from interpolants.data import checkerboard

LIKELIHOOD, DIVERGENCE, EVALUATIONS = "negative log-likelihood", "KL divergence", "evaluations"
BOUND, CALIBRATION = "SDE's bound", "calibration"
COLUMNS = (LIKELIHOOD, DIVERGENCE, EVALUATIONS, BOUND, CALIBRATION)
ENTROPY = math.log(32)
EPSILON = 0.1


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        steps: Minibatches.
        points: Held-out points of each seed.
        sde_steps: Steps of the bound.
        held_out: Pairs of each seed for the calibration.
    """

    steps: int
    points: int
    sde_steps: int
    held_out: int


def run(settings: Settings) -> Result:
    """Return the table of densities."""
    sizes = settings.pick(
        Sizes(100, 100, 50, 2_000), Sizes(800, 500, 100, 20_000), Sizes(3_000, 2_000, 200, 50_000)
    )
    bench = bench_of(settings, sizes, settings.seed_list(2, 2, 3))
    table = Table("density", "The checkerboard's negative log-likelihood in nats", COLUMNS)
    table.note = note(sizes, len(bench.seeds))
    table.add(
        "entropy of the target, ln 32",
        {LIKELIHOOD: plain(round(ENTROPY, 4)), DIVERGENCE: plain(0), BOUND: plain(round(ENTROPY, 4))},
        FLOOR,
    )
    paths = ["linear", "trigonometric", "linear+brownian", "trigonometric+brownian"]
    for contender in [*ours(settings, paths, [INDEPENDENT]), *peers(settings, [INDEPENDENT])]:
        name = contender.label.removesuffix(f", {INDEPENDENT}")
        table.add(name, attempted(COLUMNS, partial(cells, bench, contender, sizes)), contender.kind)
    if "azula" in settings.peers:
        table.add("azula", {LIKELIHOOD: missing("it learns no velocity")}, PEER)
    return Result([table], [], vars(sizes))


def bench_of(settings: Settings, sizes: Sizes, seeds: Sequence[int]) -> Bench:
    """Return where the contenders are trained."""
    schedule = partial(annealed, steps=sizes.steps)
    recipe = Recipe(network, partial(adam, lr=5e-3), sizes.steps, 512, 512, 1, schedule)
    return Bench(partial(pairs, len(seeds)), seeds, recipe, settings.device)


def network() -> nn.Module:
    """Return a network; a smooth one, since the density is a derivative of it."""
    return MLP(2, width=64, depth=4, activation=nn.SiLU)


def pairs(seeds: int, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return points of both laws, so many of each seed."""
    x0 = torch.randn(seeds * n, 2, generator=generator, device=generator.device)
    return x0, checkerboard(seeds * n, generator=generator)


def cells(bench: Bench, contender: Contender, sizes: Sizes) -> dict[str, Cell]:
    """Train a contender and return its row."""
    field = bench.learnt(contender)
    _, x1 = pairs(len(bench.seeds), sizes.points, bench.stream(TEST))
    bound = attempted([BOUND], partial(evidence, bench, contender, field, x1, sizes.sde_steps))
    slope = measured(bench.calibration(field, contender, sizes.held_out))
    of_flow = attempted(
        (LIKELIHOOD, DIVERGENCE, EVALUATIONS), partial(likelihood, field, x1, len(bench.seeds))
    )
    return {**of_flow, **bound, CALIBRATION: slope}


def likelihood(field: LearnedField, x1: Tensor, seeds: int) -> dict[str, Cell]:
    """Return the flow's cells."""
    found = log_likelihood(field, x1, standard_normal_log_prob, sampler=ODESampler("dopri5"))
    means = [-float(part) for part in split(found.value.double(), seeds).mean(1)]
    return {
        LIKELIHOOD: measured(means),
        DIVERGENCE: measured(mean - ENTROPY for mean in means),
        EVALUATIONS: plain(found.evaluations),
    }


def evidence(
    bench: Bench, contender: Contender, field: LearnedField, x1: Tensor, steps: int
) -> dict[str, Cell]:
    """Train a denoiser and return what the SDE costs at most."""
    if contender.peer:
        return {BOUND: missing(f"{contender.peer} learns no denoiser")}
    if contender.interpolant.gamma.vanishes:
        return {BOUND: missing("without latent noise there is no denoiser")}
    denoiser = bench.network(contender, Denoiser())
    velocity = field.networks["velocity"]
    assert isinstance(velocity, Ensemble)
    both = [
        LearnedField(
            contender.interpolant,
            velocity=velocity.member(network, k),
            denoiser=denoiser.member(network, k),
        )
        for k in range(len(bench.seeds))
    ]
    sampler = SDESampler(Constant(EPSILON), steps=steps)
    generator = bench.stream(TRAINING)
    bounds = [
        sde_log_likelihood_bound(one, points, standard_normal_log_prob, sampler=sampler, generator=generator)
        for one, points in zip(both, split(x1, len(bench.seeds)), strict=True)
    ]
    return {BOUND: measured(-bound.value for bound in bounds)}


def note(sizes: Sizes, seeds: int) -> str:
    """Return what a reader must know."""
    return (
        f"{seeds} seeds, each with its own network (4 x 64), endless training points and {sizes.points:,} "
        f"held-out points; {sizes.steps:,} minibatches of 512, Adam at 5e-3 falling to 0; dopri5 at 1e-5, "
        "whose steps all seeds share. The divergence is from target to model. Latent noise is trained with "
        f"antithetic pairs. The bound: minus the evidence lower bound of the SDE with epsilon = {EPSILON} in "
        f"{sizes.sde_steps} Euler-Maruyama steps, of a second network. {CALIBRATED}"
    )
