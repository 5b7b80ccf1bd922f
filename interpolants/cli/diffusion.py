"""What a run with a denoiser shows: SDEs beside the flow, densities, and the one-dimensional system."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from interpolants.cli.runs import Run
from interpolants.config import (
    Config,
    field_of,
    generator_of,
    learning_rate_at,
    loss_of,
    optimizer_of,
)
from interpolants.data import KnownDensity, RandomPairs
from interpolants.families import Linear
from interpolants.fields import Field
from interpolants.gammas import Brownian
from interpolants.interpolant import SpatiallyLinear
from interpolants.metrics import sliced_wasserstein2
from interpolants.networks import MLP, Heads
from interpolants.oracles import GaussianMixture, MixtureOracle, grid_points, random_walk
from interpolants.plotting import chain_figure, cloud_figure, density_figure, flow_figure, save
from interpolants.samplers import (
    Constant,
    Epsilon,
    ODESampler,
    ProportionalToGamma,
    SDESampler,
    log_likelihood,
    sde_log_likelihood_bound,
)
from interpolants.training import Trainer

#: The diffusions that are tried on a trained network, by what they are called in pictures.
DIFFUSIONS: dict[str, Epsilon] = {
    "ε = 0.3 γ": ProportionalToGamma(0.3),
    "ε = γ": ProportionalToGamma(1.0),
    "ε = 0.05": Constant(0.05),
    "ε = 0.5": Constant(0.5),
}
_POINTS = 10_000
_PIXELS = 160  # along each side of the picture of the density
_LINE_STEPS = 12_000  # of the training on a line


class Diffusions:
    """The points that a trained field's ODE and SDEs carry to, and how far they are from the target."""

    def __init__(self, run: Run) -> None:
        generator = generator_of(run.config, "diffusions")
        self.run = run
        self.target, other = (run.p1.sample(_POINTS, generator=generator) for _ in range(2))
        start = run.draw(run.p0, _POINTS, generator)
        steps = run.config.sample_steps
        # Two evaluations a step, and the same number in all.
        flow = ODESampler("heun", steps=max(1, steps // 2), end_only=True)
        self.clouds = {"ODE": flow.sample(run.learned, start).final.cpu()}
        for name, epsilon in DIFFUSIONS.items():
            sampler = SDESampler(epsilon, steps=steps, end_only=True)
            noise = generator_of(run.config, "diffusions", run.device)
            self.clouds[name] = sampler.sample(run.learned, start, generator=noise).final.cpu()
        self.floor = self._distance(other)
        self.distances = {name: self._distance(cloud) for name, cloud in self.clouds.items()}

    @property
    def best(self) -> str:
        """The name of the diffusion whose points are nearest to the target."""
        return min(DIFFUSIONS, key=lambda name: self.distances[name])

    def metrics(self) -> dict[str, Any]:
        """Return the distances and, from a source of known density, negative log-likelihoods in nats."""
        found: dict[str, Any] = {
            "sliced_wasserstein2_of": {"points": _POINTS, **self.distances, "two target sets": self.floor}
        }
        run = self.run
        if isinstance(run.p0, KnownDensity):
            held_out = self.target.to(run.device)
            likelihood = log_likelihood(run.learned, held_out, run.p0.log_prob)
            nats = -likelihood.value.double()
            found["negative_log_likelihood"] = {
                "points": _POINTS,
                "value": float(nats.mean()),
                "standard_error": float(nats.std() / _POINTS**0.5),
                "evaluations": likelihood.evaluations,
            }
            sampler = SDESampler(Constant(0.05), steps=run.config.sample_steps)
            bound = sde_log_likelihood_bound(
                run.learned,
                held_out,
                run.p0.log_prob,
                sampler=sampler,
                generator=generator_of(run.config, "diffusions", run.device),
            )
            found["negative_log_likelihood_bound_of_sde"] = {
                "epsilon": 0.05,
                "value": -bound.value,
                "standard_error": bound.standard_error,
            }
            if isinstance(run.p1, KnownDensity):
                found["negative_log_likelihood"]["floor"] = run.p1.entropy
        return found

    def draw(self, folder: Path) -> list[Path]:
        """Write the pictures and return where they are."""
        run, half = self.run, self.run.p1.bounds
        shown = {"target": self.target, **self.clouds}
        made = [
            save(
                cloud_figure(list(shown.values()), list(shown), bounds=half, columns=3),
                folder / "clouds.png",
            )
        ]
        if isinstance(run.p0, KnownDensity):
            made.append(_density_picture(run, folder / "log_density.png"))
        if isinstance(run.interpolant, SpatiallyLinear):
            try:
                made.append(self._chain_picture(run.interpolant, folder / "chain.png"))
            except (RuntimeError, ValueError) as error:
                print(f"note: no picture of the random chain: {error}", file=sys.stderr)
        made.append(flow_picture(run.config, folder / "flow_1d.png"))
        return made

    def _distance(self, points: Tensor) -> float:
        if not points.isfinite().all():
            return float("inf")
        directions = torch.Generator().manual_seed(0)
        return sliced_wasserstein2(points, self.target, generator=directions)

    def _chain_picture(self, interpolant: SpatiallyLinear, path: Path) -> Path:
        run, starts, repeats, steps = self.run, 5, 12, 256
        generator = generator_of(run.config, "pictures")
        angles = torch.arange(starts) * (2 * torch.pi / starts)
        x0 = 0.8 * torch.stack([angles.cos(), angles.sin()], dim=1)
        repeated = x0.repeat_interleave(repeats, dim=0)
        chains = [
            random_walk(interpolant, run.p0, run.p1, repeated, few, generator=generator)
            for few in (16, steps)
        ]
        flow = ODESampler(steps=steps).sample(run.learned, x0.to(run.device))
        noise = generator_of(run.config, "pictures", run.device)
        sde = SDESampler(DIFFUSIONS["ε = γ"], steps=steps)
        walks = [
            *(chain.reshape(-1, starts, repeats, 2) for chain in chains),
            flow.x.cpu().unsqueeze(2),
            sde.sample(run.learned, repeated.to(run.device), generator=noise)
            .x.cpu()
            .reshape(-1, starts, repeats, 2),
        ]
        labels = ["chain, 16 steps", f"chain, {steps} steps", "ODE", "SDE, ε = γ"]
        half = max(run.p0.bounds[0], run.p1.bounds[0]), max(run.p0.bounds[1], run.p1.bounds[1])
        return save(chain_figure(walks, flow.final.cpu(), labels, bounds=half), path)


def _density_picture(run: Run, path: Path) -> Path:
    half = run.p1.bounds
    grid = grid_points((-half[0], half[0], -half[1], half[1]), _PIXELS)
    points = grid.reshape(-1, 2).to(run.device)
    assert isinstance(run.p0, KnownDensity)
    learned = log_likelihood(run.learned, points, run.p0.log_prob).value.cpu().reshape(grid.shape[:2])
    pictures, labels = [learned], ["learned"]
    if isinstance(run.p1, KnownDensity):
        pictures, labels = [run.p1.log_prob(grid), learned], ["exact", "learned"]
    return save(density_figure(pictures, labels, bounds=half), path)


def flow_picture(config: Config, path: Path) -> Path:
    """Train on two modes that become three on a line, and draw density and flow lines, exact and learned."""
    interpolant = Linear(Brownian(0.25))
    source = GaussianMixture(torch.ones(2), torch.tensor([[-1.5], [1.5]]), torch.full((2, 1, 1), 0.0625))
    target = GaussianMixture(torch.ones(3), torch.tensor([[-3.0], [0.0], [3.0]]), torch.full((3, 1, 1), 0.1))
    exact = MixtureOracle(interpolant, source, target)
    learned = _learned_on_a_line(config, interpolant, source, target)
    times, positions = torch.linspace(0, 1, 65), torch.linspace(-4.5, 4.5, 181)
    densities = [
        torch.stack([exact.log_density(float(t), positions[:, None]).exp() for t in times]),
        torch.stack([_log_density(learned, source, float(t), positions[:, None]).exp() for t in times]),
    ]
    generator = generator_of(config, "pictures")
    x0 = source.sample(24, generator=generator)
    dynamics = {"ODE": None, "SDE, ε = 0.1": Constant(0.1), "SDE, ε = 0.5": Constant(0.5)}
    paths = []
    for field in (exact, learned):
        row = []
        for epsilon in dynamics.values():
            sampler = ODESampler("heun", steps=256) if epsilon is None else SDESampler(epsilon, steps=512)
            trajectory = sampler.sample(field, x0, seeds=range(len(x0)))
            row.append((trajectory.t, trajectory.x.squeeze(-1)))
        paths.append(row)
    figure = flow_figure(densities, times, positions, paths, labels=list(dynamics), rows=["exact", "learned"])
    return save(figure, path)


def _learned_on_a_line(
    config: Config, interpolant: Linear, source: GaussianMixture, target: GaussianMixture
) -> Field:
    line = Config(
        gamma="brownian:0.25",
        learn="both",
        inverse_variance=1.0,
        steps=_LINE_STEPS,
        learning_rate=4e-3,
        schedule="cosine",
        seed=config.seed,
    )
    generator = generator_of(line, "diffusions")
    network = Heads(MLP(1, activation=torch.nn.SiLU, out_dim=2, generator=generator))
    batches = RandomPairs(
        source.sample(2**16, generator=generator),
        target.sample(2**16, generator=generator),
        512,
        generator=generator,
    )
    rate = torch.tensor(learning_rate_at(line, 0))
    trainer = Trainer(
        network,
        loss_of(line, interpolant),
        batches,
        steps=line.steps,
        optimizer=optimizer_of(line, rate),
        generator=generator,
    )
    for step in trainer:
        rate.fill_(learning_rate_at(line, step.index))
    return field_of(line, interpolant, network)


def _log_density(field: Field, source: GaussianMixture, t: float, x: Tensor) -> Tensor:
    if t == 0:
        return source.log_prob(x)
    sampler = ODESampler(
        "rk4", times=torch.linspace(0, t, max(2, round(96 * t)), dtype=torch.float64).tolist()
    )
    return log_likelihood(field, x, source.log_prob, sampler=sampler).value
