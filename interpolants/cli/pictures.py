"""The pictures of a run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

from interpolants.cli.runs import Run
from interpolants.config import generator_of, sampler_of
from interpolants.interpolant import SpatiallyLinear
from interpolants.oracles import field_on_grid, grid_points, random_walk
from interpolants.plotting import animate, chain_figure, field_figure, loss_curve, panel, save
from interpolants.samplers import Trajectory

_CHAIN_STEPS = (4, 16, 64, 256)


def draw_all(run: Run, trajectory: Trajectory, folder: Path) -> list[Path]:
    """Write every picture of a trained run and return where they are."""
    path, times = trajectory.x.cpu(), trajectory.t.cpu()
    half = _half_sides(run)
    made = [animate(path, times, folder / "animation.gif", bounds=half)]
    shown = [round(k * (len(times) - 1) / 4) for k in range(5)]
    made.append(
        save(
            panel(
                path[shown],
                [float(times[k]) for k in shown],
                p0=run.p0.values,
                p1=run.p1.values,
                bounds=half,
            ),
            folder / "panel.png",
        )
    )
    made.append(_field_picture(run, folder / "field.png", half))
    if isinstance(run.interpolant, SpatiallyLinear):
        try:
            made.append(_chain_picture(run, run.interpolant, folder / "chain.png", half))
        except (RuntimeError, ValueError) as error:  # The chain is a picture beside the work, not part of it.
            print(f"note: no picture of the random chain: {error}", file=sys.stderr)
    made.append(draw_loss(run, folder / "loss.png"))
    return made


def draw_loss(run: Run, path: Path) -> Path:
    """Write the curve of the training loss."""
    steps = [run.loss_every * (k + 1) for k in range(len(run.losses))]
    return save(loss_curve(steps, run.losses, log_steps=True), path)


def _field_picture(run: Run, path: Path, half: tuple[float, float]) -> Path:
    times, resolution, pairs = (0.25, 0.5, 0.75), 64, 64 * run.config.points
    bounds = (-half[0], half[0], -half[1], half[1])
    generator = generator_of(run.config, "pictures")
    x0, x1 = (density.sample(pairs, generator=generator) for density in (run.p0, run.p1))
    interpolant = run.interpolant.cpu() if isinstance(run.interpolant, torch.nn.Module) else run.interpolant
    with torch.no_grad():
        exact = torch.stack(
            [
                field_on_grid(
                    interpolant, x0, x1, t, bounds=bounds, resolution=resolution, generator=generator
                )
                for t in times
            ]
        )
        if isinstance(run.interpolant, torch.nn.Module):
            run.interpolant.to(run.device)
        points = grid_points(bounds, resolution).reshape(-1, 2).to(run.device)
        answers = [run.learned.velocity(t, points).cpu() for t in times]
    learned = torch.stack(answers).reshape(exact.shape)
    return save(field_figure(learned.where(exact.isfinite(), torch.nan), exact, times, bounds=half), path)


def _chain_picture(run: Run, interpolant: SpatiallyLinear, path: Path, half: tuple[float, float]) -> Path:
    starts, repeats = 5, 12
    generator = generator_of(run.config, "pictures")
    x0 = _spread_out(run.p0.sample(512, generator=generator), starts)
    repeated = x0.repeat_interleave(repeats, dim=0)
    chains = [
        random_walk(interpolant, run.p0, run.p1, repeated, steps, generator=generator).reshape(
            steps + 1, starts, repeats, 2
        )
        for steps in _CHAIN_STEPS
    ]
    ends = sampler_of(run.config, end_only=True).sample(run.learned, x0.to(run.device)).final.cpu()
    labels = [f"{steps} steps" for steps in _CHAIN_STEPS]
    return save(chain_figure(chains, ends, labels, bounds=half), path)


def _spread_out(points: Tensor, n: int) -> Tensor:
    """Return ``n`` of the points, each as far as can be from those before."""
    chosen = [points[0]]
    for _ in range(n - 1):
        distance = torch.cdist(points, torch.stack(chosen)).min(dim=1).values
        chosen.append(points[distance.argmax()])
    return torch.stack(chosen)


def _half_sides(run: Run) -> tuple[float, float]:
    return (
        max(run.p0.bounds[0], run.p1.bounds[0]),
        max(run.p0.bounds[1], run.p1.bounds[1]),
    )
