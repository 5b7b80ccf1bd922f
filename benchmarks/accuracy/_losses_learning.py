"""Small networks that learn the velocity between two mixtures, how wrong they are, and what it costs.

The exact field comes from the values of alpha, beta and gamma alone, so that a wrong derivative shows as
an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.accuracy._losses_variants import Told, Variant, derived
from benchmarks.ensemble import BySeed, Ensemble, Pairs, split, swapped
from benchmarks.timing import Timings, interleaved
from interpolants import (
    MLP,
    Affine,
    Gamma,
    GaussianMixture,
    Interpolant,
    MixtureOracle,
    SpatiallyLinear,
    Trainer,
)
from interpolants.losses import Loss

DECAY = 0.999


@dataclass(frozen=True)
class Sizes:
    """How much is done.

    Attributes:
        steps: Training steps.
        batch: Pairs in a minibatch.
        width: Of the networks' layers.
        depth: How many hidden layers.
        times: Of the grid on which errors are measured.
        points: At each of these times, for each seed.
        gradients: Minibatches for the noise of a gradient.
        held_out: Examples for the values of the losses, for each seed.
        told: Points of which the exact velocity is told, for each seed.
        rounds: Of the timing.
        compile: Whether training steps are compiled.
    """

    steps: int
    batch: int = 256
    width: int = 64
    depth: int = 4
    times: int = 32
    points: int = 128
    gradients: int = 64
    held_out: int = 16384
    told: int = 16384
    rounds: int = 15
    compile: bool = False


class ValuesOnly(Gamma):
    """A latent noise of which only the values are believed: its derivatives are automatic."""

    def __init__(self, gamma: Gamma) -> None:
        self.gamma = gamma

    def squared(self, t: Tensor) -> Tensor:
        """Return gamma squared."""
        return self.gamma(t).square()

    @property
    def vanishes(self) -> bool:
        """Whether there is no latent noise."""
        return self.gamma.vanishes


@dataclass(frozen=True)
class Truth:
    """The exact velocity at points of each seed's own, at the times of a grid: ``(seeds * P, ...)``."""

    t: Tensor
    x: Tensor
    velocity: Tensor


@dataclass
class Problem:
    """Two mixtures, a path between them, and the seeds that learn it.

    Args:
        path: The interpolant.
        seeds: The seeds.
        sizes: How much is done.
        device: Where.
    """

    path: Interpolant
    seeds: Sequence[int]
    sizes: Sizes
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self.source = ring(3, 1.0, 0.5).to(self.device)
        self.target = ring(8, 1.3, 0.25).to(self.device)

    @property
    def oracle(self) -> MixtureOracle:
        """The exact field, from the values of alpha, beta and gamma alone."""
        if not isinstance(self.path, SpatiallyLinear):
            raise TypeError("exact fields need a spatially linear path")
        gamma = ValuesOnly(self.path.gamma)
        return MixtureOracle(Affine(self.path.alpha, self.path.beta, gamma), self.source, self.target)

    def generator(self, stream: int) -> torch.Generator:
        """Return a generator that belongs to these seeds and one use of them."""
        return torch.Generator(self.device).manual_seed(1000 * (self.seeds[0] + 1) + stream)

    def draw(self, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return so many independent pairs for each seed."""
        count = rows * len(self.seeds)
        return self.source.sample(count, generator=generator), self.target.sample(count, generator=generator)

    def told(self) -> Pairs:
        """Return minibatches of points with their exact velocity, for :class:`Told`."""
        seeds, rows = len(self.seeds), self.sizes.told
        generator = self.generator(6)
        x0, x1 = self.draw(rows, generator)
        t = torch.rand(len(x0), generator=generator, device=self.device)
        sample = self.path.sample(t, x0, x1, generator=generator)
        velocity = self.oracle.velocity(t, sample.xt)
        known = [split(torch.cat([part, t[:, None]], dim=1), seeds) for part in (sample.xt, velocity)]
        each = torch.arange(seeds, device=self.device)[:, None]

        def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            row = torch.randint(rows, (seeds, count), generator=generator, device=self.device)
            return known[0][each, row].flatten(0, 1), known[1][each, row].flatten(0, 1)

        return Pairs(draw, self.sizes.batch, generator)

    def pairs(self, variant: Variant, stream: int) -> Pairs:
        """Return a variant's minibatches; the same draws for all that ask for as many."""
        return Pairs(self.draw, round(variant.share * self.sizes.batch), self.generator(stream))

    def network(self) -> MLP:
        """Return an untrained network."""
        return MLP(2, width=self.sizes.width, depth=self.sizes.depth)

    def ensemble(self) -> Ensemble:
        """Return the untrained networks of all seeds."""
        return Ensemble(self.network, self.seeds).to(self.device)

    def truth(self) -> Truth:
        """Return points of the path at stratified times, each seed its own, with the exact velocity."""
        generator, oracle, grid = self.generator(1), self.oracle, self.sizes.times
        times, points, velocities = [], [], []
        for k in range(grid):
            x0, x1 = self.draw(self.sizes.points, generator)
            sample = self.path.sample((k + 0.5) / grid, x0, x1, generator=generator)
            for found, rows in ((times, sample.t), (points, sample.xt)):
                found.append(split(rows, len(self.seeds)))
            velocities.append(split(oracle.velocity((k + 0.5) / grid, sample.xt), len(self.seeds)))
        return Truth(*(torch.cat(found, dim=1).flatten(0, 1) for found in (times, points, velocities)))


def ring(count: int, radius: float, deviation: float) -> GaussianMixture:
    """Return equal Gaussians on a circle; about variance 1 for each coordinate with the numbers used here."""
    angles = 2 * math.pi * torch.arange(count) / count
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1)
    return GaussianMixture(torch.ones(count), means, (deviation**2 * torch.eye(2)).repeat(count, 1, 1))


@dataclass
class Learned:
    """What a variant came to.

    Attributes:
        steps: At which the curve was read.
        curve: Relative squared errors of the averaged weights, ``(len(steps), seeds)``.
        last: That of the last weights themselves, ``(seeds,)``.
        length: E[b_hat . b] / E|b|^2 of the averaged weights, ``(seeds,)``.
        network: The averaged networks.
    """

    steps: list[int]
    curve: Tensor
    last: Tensor
    length: Tensor
    network: nn.Module

    def at(self, step: float) -> Tensor:
        """Return the errors after so many steps, ``(seeds,)``: read off the curve between its points."""
        later = min(max(1, sum(s < step for s in self.steps)), len(self.steps) - 1)
        low, high = (math.log(self.steps[k]) for k in (later - 1, later))
        share = (math.log(max(step, 1e-9)) - low) / (high - low)
        return torch.lerp(self.curve[later - 1].log(), self.curve[later].log(), share).exp()


def learn(problem: Problem, variant: Variant, truth: Truth | None) -> Learned:
    """Return what networks trained by a variant come to; without the truth the curve stays empty."""
    seeds, sizes = len(problem.seeds), problem.sizes
    ensemble = problem.ensemble()
    network = BySeed(ensemble) if variant.antithetic else ensemble
    pairs = problem.told() if variant.told else problem.pairs(variant, stream=2)
    trainer = Trainer(
        network,
        variant.loss(Told() if variant.told else problem.path, seeds),
        pairs,
        steps=sizes.steps,
        optimizer=partial(torch.optim.Adam, lr=2e-3),
        averages=(DECAY,),
        compile=sizes.compile,
        generator=pairs.generator,
    )
    average = trainer.averages[DECAY].module
    average = average.ensemble if variant.antithetic else average
    marks, curve, length = marked(sizes.steps), [], torch.empty(0)
    for step in trainer:
        if truth is not None and step.index in marks:
            error, length = errors(derived(problem.path, variant.learns, average), truth, seeds)
            curve.append(error)
    if truth is None:
        return Learned([], torch.empty(0, seeds), torch.empty(0), length, average)
    last, _ = errors(derived(problem.path, variant.learns, ensemble), truth, seeds)
    return Learned(marks, torch.stack(curve), last, length, average)


def marked(steps: int) -> list[int]:
    """Return at which steps a curve is read: some ten, evenly by their logarithm, the last among them."""
    return sorted({max(1, round(steps * 2 ** (-k / 2))) for k in range(11)})


@torch.no_grad()
def errors(velocity: Callable[[Tensor, Tensor], Tensor], truth: Truth, seeds: int) -> tuple[Tensor, Tensor]:
    """Return E|b_hat - b|^2 / E|b|^2 and E[b_hat . b] / E|b|^2 of each seed, ``(seeds,)``, on the CPU."""
    answer = velocity(truth.t, truth.x)
    parts = ((answer - truth.velocity).square(), answer * truth.velocity, truth.velocity.square())
    wrong, along, size = (split(part.double(), seeds).sum((1, 2)).cpu() for part in parts)
    return wrong / size, along / size


@dataclass(frozen=True)
class Noise:
    """The gradient of a minibatch's loss at fixed networks.

    Attributes:
        variance: Its variance summed over the weights, ``(seeds,)``.
        squared_mean: The squared norm of its mean, ``(seeds,)``, without bias.
    """

    variance: Tensor
    squared_mean: Tensor

    @property
    def relative(self) -> Tensor:
        """The variance in units of the squared norm of the mean."""
        return self.variance / self.squared_mean


def noise(problem: Problem, variant: Variant, ensemble: Ensemble) -> Noise:
    """Return how noisy a variant's gradient is, from fresh minibatches."""
    seeds, count = len(problem.seeds), problem.sizes.gradients
    loss, pairs = variant.loss(problem.path, seeds), problem.pairs(variant, stream=3)
    network = BySeed(ensemble) if variant.antithetic else ensemble
    weights = [weight.requires_grad_() for weight in ensemble.parameters()]
    total, squares = torch.zeros((), device=problem.device), torch.zeros((), device=problem.device)
    for _ in range(count):
        found = torch.autograd.grad(loss(network, *next(pairs), generator=pairs.generator), weights)
        gradient = torch.cat([part.flatten(1) for part in found], dim=1).double()
        total, squares = total + gradient, squares + gradient.square().sum(1)
    mean = (total / count).square().sum(1)
    variance = (squares - count * mean) / (count - 1)
    return Noise(variance.cpu(), (mean - variance / count).cpu())


def seconds(problem: Problem, variants: Sequence[Variant]) -> Timings:
    """Return the time of a training step of one network by the library's trainer, as it is by default."""
    alone = Problem(problem.path, problem.seeds[:1], problem.sizes, problem.device)
    works = {}
    for variant in variants:
        pairs = alone.pairs(variant, stream=4)
        batch = next(pairs)  # One for all steps: drawing points is no part of a loss.
        fixed = Pairs(lambda rows, generator, batch=batch: batch, pairs.rows, pairs.generator)
        network = alone.network().to(alone.device)
        loss = variant.loss(alone.path, 1)
        trainer = Trainer(network, loss, fixed, steps=10**9, generator=pairs.generator)
        works[variant.label] = partial(next, trainer)
    return interleaved(works, rounds=problem.sizes.rounds, device=problem.device)


@dataclass(frozen=True)
class Values:
    """What a loss says of the exact field, in units of E|b|^2, ``(seeds,)`` each.

    Attributes:
        mean: Its value.
        spread: The standard deviation of one example, or of one antithetic pair.
    """

    mean: Tensor
    spread: Tensor


@torch.no_grad()
def values(problem: Problem, loss: Loss) -> Values:
    """Return what a loss says of the exact field on held-out points."""
    seeds, generator, oracle = len(problem.seeds), problem.generator(5), problem.oracle
    answers: list[Tensor] = []

    def exact(t: Tensor, x: Tensor) -> Tensor:
        answers.append(oracle.velocity(t, x))
        return answers[-1]

    draw = loss.draw(*problem.draw(problem.sizes.held_out, generator), generator=generator)
    found = split(loss.evaluate(exact, draw).double(), seeds)
    signs = len(answers[0]) // len(draw.t)
    size = split(swapped(answers[0], signs, seeds), seeds).double().square().sum(2).mean(1)
    return Values((found.mean(1) / size).cpu(), (found.std(1) / size).cpu())
