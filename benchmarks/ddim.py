"""DDIM beside the Euler steps of IADB: the same map in exact arithmetic, and where the two part.

    python -m benchmarks.ddim [--steps 1 2 4 ... 128] [--device cpu] [--seed 0] [--out runs/ddim] [--save]
    python -m benchmarks.ddim --run RUN [--samples 720] [--steps 1 2 4 ... 128] ...

Exact part. A known field from N(0, Id) to a Gaussian mixture, one component for each of scikit-learn's digits
(8 x 8 pixels in [-1, 1]), or to the digits themselves:
- the largest difference between the two samplers in double precision;
- the error of each in lower precision, against its own double-precision run of as many steps: rms over
  pixels, median over images, since a few lie where the flow splits and go far with any error. Either the
  field's answers alone are rounded and the state is kept in single precision, as the library does, or
  everything is. DDIM starts at pure noise, where it takes x1 from the field, or at a first time t, where it
  divides by about t; diffusion models with the schedule of DDPM start at t = 0.0063;
- the same for a field with a small error e, of its velocity as the network of an IADB makes, or of its noise
  as the network of a DDIM makes, in units of e.

Learned part. The same noise by each sampler at equal numbers of network evaluations, with the Fréchet
distance of pixels to real digits, and a picture. One network has learnt the velocity, another of the same
size the noise; the latter's estimates of the digit are also clipped to [-1, 1], as is common.

With ``--run`` there is only the network of a run of ``interpolants train`` towards images, by IADB, DDIM and
methods of higher order, with the same labels for all if it has learnt any. The Fréchet distance is then that
of a classifier's features to the images trained on, the mean over sets of as many images as are held out, and
its floor that of those held out.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from benchmarks.machine import save
from interpolants import (
    MLP,
    DataOracle,
    Field,
    GaussianMixture,
    LearnedField,
    Linear,
    MixtureOracle,
    ODESampler,
    Regression,
)
from interpolants.cli.image_quality import classifier_of, real_images
from interpolants.cli.image_runs import ImageRun
from interpolants.config import image_sets_of
from interpolants.losses import X0, Target, Velocity
from interpolants.metrics import FeatureStatistics, extract, frechet_distance
from interpolants.plotting import style
from interpolants.samplers import DDIMSampler

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = (1, 2, 4, 8, 16, 32, 64, 128)
DDPM = 0.0063  # beta / (alpha + beta) where abar = 4e-5
FIRSTS = (DDPM, 1e-3, 1e-4)
ROUNDED = (torch.float32, torch.float16, torch.bfloat16)

Sampler = ODESampler | DDIMSampler
Maker = Callable[[int], Sampler | None]
"""From a number of evaluations to a sampler that takes as many; None when there is none."""

Loop = Callable[[Field, Tensor, int], Tensor]
"""From a field, noise (B, *D) and a number of steps to samples (B, *D)."""


def ddim(first: float) -> Maker:
    return lambda steps: DDIMSampler(steps, first=first, end_only=True)


def of_stages(method: str, stages: int) -> Maker:
    def maker(evaluations: int) -> Sampler | None:
        steps, rest = divmod(evaluations, stages)
        return None if rest or not steps else ODESampler(method, steps=steps, end_only=True)

    return maker


SAMPLERS: dict[str, Maker] = {
    "IADB (Euler)": of_stages("euler", 1),
    "DDIM": ddim(0.0),
    "Heun": of_stages("heun", 2),
    "rk4": of_stages("rk4", 4),
}


# ------------------------------------------------------------------------------------------- the exact part


def digits() -> tuple[Tensor, Tensor]:
    """Return the digits in [-1, 1], shape (1797, 1, 8, 8), and their labels."""
    data, labels = load_digits(return_X_y=True)
    return torch.from_numpy(data).reshape(-1, 1, 8, 8) / 8 - 1, torch.from_numpy(labels)


def exact_fields(device: str) -> tuple[MixtureOracle, DataOracle]:
    images, labels = digits()
    points = images.flatten(1)
    groups = [points[labels == label] for label in range(10)]
    ridge = 1e-3 * torch.eye(64, dtype=torch.float64)
    target = GaussianMixture(
        torch.tensor([len(group) for group in groups], dtype=torch.float64),
        torch.stack([group.mean(0) for group in groups]),
        torch.stack([torch.cov(group.T) + ridge for group in groups]),
    )
    one = torch.ones(1, dtype=torch.float64)
    source = GaussianMixture(one, 0 * points[:1], torch.eye(64, dtype=torch.float64)[None])
    source, target = source.to(device), target.to(device)
    return MixtureOracle(Linear(), source, target), DataOracle(Linear(), source, points.to(device))


def iadb_rounded(field: Field, x: Tensor, steps: int) -> Tensor:
    """Return IADB's answer with everything in the precision of ``x``."""
    for k in range(steps):
        x = x + 1 / steps * field.velocity(k / steps, x)
    return x


def ddim_rounded(first: float) -> Loop:
    """Return DDIM with everything in the precision of the noise."""

    def loop(field: Field, x: Tensor, steps: int) -> Tensor:
        times = [first, *((k + 1) / steps for k in range(steps))]
        for now, then in itertools.pairwise(times):
            size, next_size = math.hypot(now, 1 - now), math.hypot(then, 1 - then)
            if now == 0:
                noise, clean = x, field.x1(now, x)
            else:
                noise = field.x0(now, size * x)
                clean = (x - (1 - now) / size * noise) / (now / size)
            x = then / next_size * clean + (1 - then) / next_size * noise
        return x

    return loop


def kept_in_single(maker: Maker) -> Loop:
    def loop(field: Field, x: Tensor, steps: int) -> Tensor:
        sampler = maker(steps)
        assert sampler is not None
        return sampler.sample(field, x).final

    return loop


def names_of_starts() -> dict[str, float]:
    return {"DDIM, pure noise": 0.0, **{f"DDIM, t = {first:g}": first for first in FIRSTS}}


def distance(found: Tensor, exact: Tensor) -> float:
    """Return the rms over pixels of the difference, its median over images."""
    return float((found - exact).square().mean(1).sqrt().median())


def agreement(field: Field, x: Tensor, steps: Sequence[int]) -> dict[str, dict[str, float]]:
    """Return by how much the samplers differ in double precision, at most."""
    rows: dict[str, dict[str, float]] = {}
    iadb = {n: ODESampler(steps=n, end_only=True).sample(field, x).final for n in steps}
    for name, first in names_of_starts().items():
        found = {n: DDIMSampler(n, first=first, end_only=True).sample(field, x).final for n in steps}
        rows[name] = {str(n): float((found[n] - iadb[n]).abs().max()) for n in steps}
    return rows


def rounding(
    field: Field,
    x: Tensor,
    steps: Sequence[int],
    measure: Callable[[Tensor, Tensor], float],
) -> dict[str, dict[str, dict[str, float]]]:
    """Return how far each sampler is from its own double-precision run, by precision and number of steps."""
    loops: dict[str, tuple[Loop, Loop]] = {
        "IADB": (kept_in_single(SAMPLERS["IADB (Euler)"]), iadb_rounded),
        **{n: (kept_in_single(ddim(first)), ddim_rounded(first)) for n, first in names_of_starts().items()},
    }
    tables: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in ROUNDED:
        # The rounding of the starting point is not the sampler's.
        start = x.to(dtype)
        for name, (single, throughout) in loops.items():
            for n in steps:
                exact = single(field, start.double(), n)
                ways = {"": single} if dtype is torch.float32 else {"": single, " throughout": throughout}
                for suffix, loop in ways.items():
                    table = tables.setdefault(str(dtype).removeprefix("torch.") + suffix, {})
                    table.setdefault(name, {})[str(n)] = measure(loop(field, start, n).double(), exact)
    return tables


class Wrong(Field):
    """An exact field with an error: of its velocity, its x0 and its x1 alike."""

    gaussian_source = True

    def __init__(self, exact: Field, error: Callable[[], Tensor]) -> None:
        self.exact = exact
        self.interpolant = exact.interpolant
        self.error = error

    def velocity(self, t: float | Tensor, x: Tensor, **conditions: Any) -> Tensor:
        return self.exact.velocity(t, x) + self.error()

    def x0(self, t: float | Tensor, x: Tensor, **conditions: Any) -> Tensor:
        return self.exact.x0(t, x) + self.error()

    def x1(self, t: float | Tensor, x: Tensor, **conditions: Any) -> Tensor:
        return self.exact.x1(t, x) + self.error()

    def score(self, t: float | Tensor, x: Tensor, **conditions: Any) -> Tensor:
        raise NotImplementedError

    denoiser = score


def wrong_answers(
    field: Field, x: Tensor, steps: Sequence[int], generator: torch.Generator, size: float = 1e-4
) -> dict[str, dict[str, dict[str, float]]]:
    """Return how far an error of the network moves the samples, divided by the size of the error."""
    fixed = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x)

    def fresh() -> Tensor:
        return size * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x)

    tables: dict[str, dict[str, dict[str, float]]] = {}
    for kind, error in {"the same at all times": lambda: size * fixed, "fresh at all times": fresh}.items():
        wrong = Wrong(field, error)
        same_network = LearnedField(Linear(), velocity=wrong.velocity, gaussian_source=True)
        rows: dict[str, tuple[Maker, Field]] = {
            "IADB, error of the velocity": (SAMPLERS["IADB (Euler)"], wrong),
            "DDIM, error of the velocity": (ddim(0.0), same_network),
            **{f"{n}, error of the noise": (ddim(first), wrong) for n, first in names_of_starts().items()},
        }
        tables[kind] = {
            name: {
                str(n): distance(kept_in_single(maker)(bad, x, n), kept_in_single(maker)(field, x, n)) / size
                for n in steps
            }
            for name, (maker, bad) in rows.items()
        }
    return tables


# ----------------------------------------------------------------------------------------- the learned part


class Cell(NamedTuple):
    images: Tensor  # (B, C, H, W)
    quality: float


def compare(
    field: Field,
    x0: Tensor,
    quality: Callable[[Tensor], float],
    evaluations: Sequence[int],
    samplers: Mapping[str, Maker] = SAMPLERS,
    **conditions: Any,
) -> dict[str, dict[int, Cell]]:
    """Return what each sampler makes of the same noise, and how good it is, at numbers of evaluations.

    Args:
        field: What carries the noise.
        x0: Noise, shape ``(B, C, H, W)``.
        quality: From images, shape ``(B, C, H, W)``, to a number; less is better.
        evaluations: How often a sampler may ask the field.
        samplers: By name, what makes a sampler of so many evaluations.
        **conditions: Passed to the field.
    """
    rows: dict[str, dict[int, Cell]] = {}
    for name, maker in samplers.items():
        rows[name] = {}
        for count in evaluations:
            sampler = maker(count)
            if sampler is None:
                continue
            trajectory = sampler.sample(field, x0, **conditions)
            assert trajectory.evaluations == count
            rows[name][count] = Cell(trajectory.final, quality(trajectory.final))
    return rows


def picture(rows: Mapping[str, Mapping[int, Cell]], evaluations: Sequence[int], across: int = 4) -> Figure:
    """Return the first images of every cell, a row for each sampler, with the quality below."""
    drawing, panels = style.figure(len(rows), len(evaluations), size=(1.15, 1.35))
    for (name, cells), line in zip(rows.items(), panels, strict=True):
        for count, axes in zip(evaluations, line, strict=True):
            axes.set(xticks=[], yticks=[])
            if axes is line[0]:
                axes.set_ylabel(name, fontsize=style.FONT_SIZE)
            if line is panels[0]:
                axes.set_title(f"{count}", fontsize=style.FONT_SIZE)
            if count in cells:
                mosaic = style.array(mosaic_of(cells[count].images, across))
                axes.imshow(mosaic, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
                axes.set_xlabel(short(cells[count].quality), fontsize=style.FONT_SIZE - 1)
            else:
                axes.set_axis_off() if axes is not line[0] else axes.spines[:].set_visible(False)
    drawing.suptitle(
        "evaluations of the network (below: Fréchet distance)", fontsize=style.FONT_SIZE, color=style.INK
    )
    return drawing


def mosaic_of(images: Tensor, across: int) -> Tensor:
    """Return the first images in a square, one pixel of white between, in [0, 1]."""
    across = min(across, math.isqrt(len(images)))
    shown = (images[: across * across] / 2 + 0.5).clamp(0, 1)
    framed = nn.functional.pad(shown, (0, 1, 0, 1), value=1.0)
    lines = [torch.cat(list(framed[k : k + across]), dim=2) for k in range(0, len(framed), across)]
    whole = torch.cat(lines, dim=1)[:, :-1, :-1]
    return whole[0] if len(whole) == 1 else whole.permute(1, 2, 0)


class Residual(nn.Module):
    """A network plus its own input: at pure noise that is the noise, which a plain MLP would have to copy."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        return x + self.network(t, x)


def trained(target: Target, seed: int, device: str, steps: int = 4_000) -> nn.Module:
    """Return a small network that has learnt the digits for under a minute."""
    generator = torch.Generator().manual_seed(seed)
    network = MLP(64, width=256, activation=nn.SiLU, frequencies=4, generator=generator)
    network = Residual(network).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    loss, images = Regression(Linear(), target), digits()[0].float()
    for _ in range(steps):
        x1 = images[torch.randint(len(images), (256,), generator=generator)]
        x0 = torch.randn(x1.shape, generator=generator)
        optimizer.zero_grad()
        loss(network, x0.to(device), x1.to(device), generator=generator).backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def clipped(field: LearnedField) -> LearnedField:
    """Return the field whose estimates of the digit lie in [-1, 1], and of the noise accordingly."""

    def noise(t: Tensor, x: Tensor) -> Tensor:
        t = t.reshape(-1, 1, 1, 1)
        clean = ((x - (1 - t) * field.x0(t.flatten(), x)) / t).clamp(-1, 1)
        return (x - t * clean) / (1 - t)

    return LearnedField(Linear(), x0=noise, gaussian_source=True)


def learned_rows(
    steps: Sequence[int], device: str, seed: int
) -> tuple[dict[str, dict[int, Cell]], dict[str, Any]]:
    images = digits()[0]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    real, others = images[order[:898]].flatten(1), images[order[898:]].flatten(1)
    x0 = torch.randn(len(others), 1, 8, 8, generator=torch.Generator().manual_seed(seed + 1)).to(device)

    def quality(made: Tensor) -> float:
        return frechet_distance(made.flatten(1).double().cpu(), real)

    velocity = LearnedField(Linear(), velocity=trained(Velocity(), seed, device), gaussian_source=True)
    noise = LearnedField(Linear(), x0=trained(X0(), seed, device), gaussian_source=True)
    rows = compare(velocity, x0, quality, steps)
    of_noise = {
        "DDIM, t = 0.001": (noise, 1e-3),
        f"DDIM, t = {DDPM:g}": (noise, DDPM),
        f"clipped, t = {DDPM:g}": (clipped(noise), DDPM),
    }
    for name, (field, first) in of_noise.items():
        label = f"{name}\n(noise network)"
        rows |= compare(field, x0, quality, steps, {label: ddim(first)})
    floor = {"images": len(x0), "real images": len(real), "floor": frechet_distance(others, real)}
    return rows, floor


# -------------------------------------------------------------------------------------------------- of a run


def rows_of_run(
    path: Path, steps: Sequence[int], samples: int, device: str, seed: int
) -> tuple[dict[str, dict[int, Cell]], dict[str, Any]]:
    """Return what each sampler makes of the same noise by the network of a run, and what is known of both.

    Raises:
        FileNotFoundError: When there is no run.
        ValueError: When the run's source is not Gaussian, it has no held-out images, or samples are fewer.
    """
    run = ImageRun.loaded(path, torch.device(device))
    field, split = run.field(), image_sets_of(run.config)
    if not field.gaussian_source:
        raise ValueError("DDIM starts at Gaussian noise with independent pairs; this run does not")
    if split.held_out is None:
        raise ValueError("the run has no held-out images to compare with")
    classifier = classifier_of(run, split, path if path.is_dir() else None)
    kept = real_images(split.held_out, 10_000)
    if samples < len(kept):
        raise ValueError(f"--samples must be at least the {len(kept)} images held out; got {samples}")
    real = FeatureStatistics.of(extract(classifier, real_images(split.train, 10_000)))

    def quality(made: Tensor) -> float:
        parts = torch.split(extract(classifier, made.clamp(-1, 1)), len(kept))
        return statistics.mean(frechet_distance(part, real) for part in parts if len(part) == len(kept))

    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(samples, *run.facts.shape, generator=generator).to(device)
    conditions = {}
    if run.config.conditional:
        # As many of each class: else the distance of a few hundred images is that of their classes.
        assert run.facts.classes is not None
        conditions["label"] = (torch.arange(samples) % run.facts.classes).to(device)
    rows = compare(field, x0, quality, steps, **conditions)
    return rows, {
        "training": json.loads(run.config.to_json()),
        "trained steps": run.step,
        "samples": samples,
        "images of a distance": len(kept),
        "real images": real.count,
        "floor": quality(kept.to(device)),
    }


def of_run(given: argparse.Namespace) -> None:
    started = time.perf_counter()
    rows, facts = rows_of_run(given.run, given.steps, given.samples, given.device, given.seed)
    distances = {name: {str(n): cell.quality for n, cell in cells.items()} for name, cells in rows.items()}
    title = (
        f"Fréchet distance of the classifier's features (held-out images: {facts['floor']:.2g}); evaluations"
    )
    show(title, distances, given.steps)
    given.out.mkdir(parents=True, exist_ok=True)
    print(style.save(picture(rows, given.steps), given.out / "ddim.png"))
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")
    if given.save:
        # Neither is where this run is kept.
        command = f"python -m benchmarks.ddim --run runs/{facts['training']['images']} {options(given)}"
        command += f" --samples {given.samples}"
        print(save("ddim_run", {"command": command, **facts, "frechet": distances, "seconds": seconds}))


# --------------------------------------------------------------------------------------------------- tables


def short(value: float) -> str:
    return f"{value:.3g}" if value < 1_000 else f"{value:.0e}".replace("e+0", "e")


def show(title: str, rows: Mapping[str, Mapping[str, float]], columns: Sequence[int]) -> None:
    print(f"\n{title}\n{'steps':38}" + "".join(f"{n:>9}" for n in columns))
    for name, values in rows.items():
        cells = [f"{values[str(n)]:9.2g}" if str(n) in values else f"{'-':>9}" for n in columns]
        print(f"{name:38}{''.join(cells)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--run", type=Path, help="a run towards images, whose network to use alone")
    parser.add_argument("--samples", type=int, default=720, help="images in every cell, of a run")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/ddim"), help="where the picture goes")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.run is not None:
        of_run(given)
        return
    started = time.perf_counter()
    mixture, data = exact_fields(given.device)
    generator = torch.Generator().manual_seed(given.seed)
    x = torch.randn(96, 64, generator=generator, dtype=torch.float64).to(given.device)
    figures: dict[str, Any] = {"device": given.device, "seed": given.seed, "steps": list(given.steps)}

    figures["agreement"] = agreement(mixture, x, given.steps)
    show("double precision: largest |DDIM - IADB|, mixture", figures["agreement"], given.steps)
    figures["rounding"] = rounding(mixture, x, given.steps, distance)
    for kind, rows in figures["rounding"].items():
        show(f"{kind}: error, mixture", rows, given.steps)
    figures["wrong answers"] = wrong_answers(mixture, x, given.steps, generator)
    for kind, rows in figures["wrong answers"].items():
        show(f"an error e, {kind}: error / e, mixture", rows, given.steps)

    few = [n for n in given.steps if n in (8, 32)]
    figures["another digit"] = rounding(data, x, few, another_digit)
    for kind, rows in figures["another digit"].items():
        show(f"{kind}: share that ends at another image, towards the digits themselves", rows, few)

    rows, floor = learned_rows(given.steps, given.device, given.seed)
    figures["learned"] = {
        **floor,
        "frechet": {
            name.replace("\n", " "): {str(n): cell.quality for n, cell in cells.items()}
            for name, cells in rows.items()
        },
        "largest |DDIM - IADB|": {
            str(n): float((cell.images - rows["DDIM"][n].images).abs().max())
            for n, cell in rows["IADB (Euler)"].items()
        },
    }
    title = f"networks: Fréchet distance of pixels (real digits: {floor['floor']:.2g}); steps are evaluations"
    show(title, figures["learned"]["frechet"], given.steps)
    show(
        "the same network: largest |DDIM - IADB|",
        {"": figures["learned"]["largest |DDIM - IADB|"]},
        given.steps,
    )
    given.out.mkdir(parents=True, exist_ok=True)
    print(style.save(picture(rows, given.steps), given.out / "ddim.png"))
    figures["seconds"] = time.perf_counter() - started
    print(f"{figures['seconds']:.0f} s")
    if given.save:
        print(save("ddim", {"command": f"python -m benchmarks.ddim {options(given)}", **figures}))


def options(given: argparse.Namespace) -> str:
    # Where the picture went is not a part of the result.
    return f"--device {given.device} --seed {given.seed} --steps {' '.join(map(str, given.steps))}"


def another_digit(found: Tensor, exact: Tensor) -> float:
    """Return the share of rows further apart than rounding puts them: two digits differ by 0.2 and more."""
    return float(((found - exact).square().mean(1).sqrt() > 0.1).double().mean())


if __name__ == "__main__":
    main()
