"""The trained checkerboard's samples by ODE and by SDEs, with enough points to tell them apart.

    interpolants train sde-2d --out runs/sde-2d
    python -m benchmarks.checkerboard --run runs/sde-2d [--points 20000] [--repeats 4]

Sliced Wasserstein-2 distances (100 directions, the same for all) of generated points to 400,000 fresh
target points, and the share of generated points off the board. Every repeat has its own noise and starting
points, the same for all contenders; the figure is the mean over repeats with its standard error, and the
difference to the ODE is paired. Points further than 10 from the origin are counted as lost and left out. The
first row is fresh target points: the floor.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from pathlib import Path

import torch

from benchmarks.machine import save
from interpolants import Constant, ODESampler, Parabolic, ProportionalToGamma, SDESampler
from interpolants.cli.runs import CHECKPOINT, Run
from interpolants.metrics import sliced_wasserstein2

SAMPLERS = {
    "ODE": ODESampler("heun", steps=128, end_only=True),
    "SDE, 0.1 gamma": SDESampler(ProportionalToGamma(0.1), steps=256, end_only=True),
    "SDE, 0.3 gamma": SDESampler(ProportionalToGamma(0.3), steps=256, end_only=True),
    "SDE, gamma": SDESampler(ProportionalToGamma(1.0), steps=256, end_only=True),
    "SDE, t(1-t)": SDESampler(Parabolic(1.0), steps=256, end_only=True),
    "SDE, 3 t(1-t)": SDESampler(Parabolic(3.0), steps=256, end_only=True),
    "SDE, 0.05": SDESampler(Constant(0.05), steps=256, end_only=True),
    "SDE, 0.5": SDESampler(Constant(0.5), steps=256, end_only=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("runs/sde-2d"))
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = Run.loaded(given.run / CHECKPOINT, given.device)
    target = run.p1.sample(400_000, generator=torch.Generator().manual_seed(0))

    def distance(points: torch.Tensor) -> float:
        directions = torch.Generator().manual_seed(1)
        return sliced_wasserstein2(points, target, projections=100, generator=directions)

    distances: dict[str, list[float]] = {"fresh target points": [], **{name: [] for name in SAMPLERS}}
    off: dict[str, list[float]] = {name: [] for name in distances}
    lost = dict.fromkeys(distances, 0)
    started = time.perf_counter()
    for repeat in range(given.repeats):
        generator = torch.Generator().manual_seed(100 + repeat)
        clouds = {"fresh target points": run.p1.sample(given.points, generator=generator)}
        start = run.draw(run.p0, given.points, generator)
        for name, sampler in SAMPLERS.items():
            noise = torch.Generator(run.device).manual_seed(200 + repeat)
            clouds[name] = sampler.sample(run.learned, start, generator=noise).final.cpu()
        for name, points in clouds.items():
            # Far from all it was trained on a network may send a point to infinity.
            kept = points[points.norm(dim=1) < 10]
            lost[name] += len(points) - len(kept)
            distances[name].append(distance(kept))
            off[name].append(1 - float(run.p1.acceptance(points).mean()))
    rows = {}
    print(f"{'':22}{'sliced W2':>18}{'less the ODE':>20}{'off the board':>15}{'lost':>6}")
    for name, found in distances.items():
        paired = [mine - theirs for mine, theirs in zip(found, distances["ODE"], strict=True)]
        rows[name] = {
            "sliced_wasserstein2": statistics.mean(found),
            "standard_error": error(found),
            "less_the_ode": statistics.mean(paired),
            "less_the_ode_standard_error": error(paired),
            "off_the_board": statistics.mean(off[name]),
            "lost": lost[name],
        }
        print(
            f"{name:22}{rows[name]['sliced_wasserstein2']:9.4f} ± {rows[name]['standard_error']:.4f}"
            f"{rows[name]['less_the_ode']:11.4f} ± {rows[name]['less_the_ode_standard_error']:.4f}"
            f"{rows[name]['off_the_board']:13.4f}{lost[name]:8d}"
        )
    figures = {
        "points": given.points,
        "repeats": given.repeats,
        "seconds": time.perf_counter() - started,
        "training": run.config.to_json(),
        "rows": rows,
    }
    print(save("checkerboard", figures))


def error(values: list[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.inf


if __name__ == "__main__":
    main()
