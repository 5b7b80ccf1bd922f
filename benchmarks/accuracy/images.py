"""Digits and glyphs made from Gaussian noise: Fréchet distance against evaluations of a small U-Net.

Every seed has its own split of the digits (its own series of glyphs), its own classifier, network and noise,
so that the errors over seeds hold all of them. Within a seed all paths learn from the same minibatches and
all samplers start at the same noise: differences between two rows are far more certain than either row, and
have a table of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.ensemble import Ensemble, Pairs, split, sum_over_seeds, train
from benchmarks.record import FLOOR, LIMIT, Cell, Plot, Result, Series, Table, measured, missing, plain
from benchmarks.settings import Settings
from interpolants import (
    Field,
    Interpolant,
    LearnedField,
    ODESampler,
    ProportionalToAlpha,
    ProportionalToGamma,
    Regression,
    SDESampler,
    SpatiallyLinear,
    UNet,
)
from interpolants.data import Digits, Glyphs, ImageSet
from interpolants.data.seeds import mixed, seeded
from interpolants.losses import Denoiser, InverseVariance, Joint, Loss, Velocity, Weighted
from interpolants.metrics import FeatureStatistics, extract, frechet_distance, train_classifier
from interpolants.networks import Heads
from interpolants.samplers import DDIMSampler
from interpolants.training import WarmUp

PATHS = ("linear", "trigonometric", "linear+brownian")
COLUMNS = (2, 4, 8, 16, 32, 128)
EULER, HEUN, DDIM, SDE = "Euler", "Heun", "DDIM", "SDE"
SLOPES = OWN, LEARNED = "time derivative", "network"

Sampler = ODESampler | DDIMSampler | SDESampler
Figures = dict[int, list[float] | str]
"""By number of evaluations: a distance for each seed, or why there is none."""


@dataclass(frozen=True)
class Size:
    """How much is done for one set of images.

    Attributes:
        seeds: The seeds.
        train: How many images each network, each classifier and each distance is given as the real ones.
        images: How many images a distance is taken of, and how many are held out for the floor.
        width: The channels of the U-Net's first level.
        steps: Steps of each training.
        rows: Pairs in a minibatch of one seed.
        judge: Steps of the classifier's training.
        evaluations: How often a sampler may ask the network.
    """

    seeds: Sequence[int]
    train: int
    images: int
    width: int
    steps: int
    rows: int
    judge: int
    evaluations: Sequence[int]


def run(settings: Settings) -> Result:
    """Return the tables and curves of both sets of images."""
    tables: list[Table] = []
    plots: list[Plot] = []
    paths = settings.paths(PATHS)
    slopes = slope_table()
    for name in IMAGES:
        size = size_of(name, settings)
        task = task_of(name, size, settings.device)
        found = {path: studied(one, task, size) for path, one in paths.items()}
        curves = {path: study.curves for path, study in found.items()}
        floor = measured(task.floor())
        tables += [distance_table(name, size, curves, floor), difference_table(name, size, curves)]
        plots += plots_of(name, size, curves, floor)
        for path, study in found.items():
            slopes.add(f"{name}: {path}", study.slopes)
    facts = {name: described(size_of(name, settings)) for name in IMAGES}
    return Result([*tables, slopes], plots, facts)


def size_of(name: str, settings: Settings) -> Size:
    """Return how much is done at a budget: three seeds at the full one, more by the flag."""
    digits = name == "digits"
    train, images = settings.pick((200, 40), (900, 180), (1541 if digits else 2048, 128))
    return Size(
        seeds=settings.seed_list(2, 2, 3),
        train=train,
        images=images,
        width=8,
        steps=settings.pick(16, 150, 400 if digits else 250),
        rows=settings.pick(16, 48, 64),
        judge=settings.pick(20, 100, 150),
        evaluations=[2**k for k in range(settings.pick(3, 6, 8))],
    )


def described(size: Size) -> dict[str, object]:
    """Return a size as plain values."""
    return {**vars(size), "seeds": list(size.seeds), "evaluations": list(size.evaluations)}


# -------------------------------------------------------------------------------------------------- the task

IMAGES: dict[str, Callable[[int], ImageSet]] = {
    "digits": lambda seed: Digits(),
    "glyphs": lambda seed: Glyphs(seed=seed, size=8),
}


class Judge:
    """The Fréchet distance to the images of one seed, on features of a classifier trained on these.

    Args:
        images: The images, shape ``(N, C, H, W)``.
        labels: Their classes.
        seed: The seed of the classifier.
        steps: The steps of its training.
    """

    def __init__(self, images: Tensor, labels: Tensor, seed: int, steps: int) -> None:
        self.classifier = train_classifier(images, labels, seed=seed, steps=steps)
        self.real = FeatureStatistics.of(extract(self.classifier, images))

    def distance(self, images: Tensor) -> float:
        """Return the distance of images, shape ``(n, C, H, W)``."""
        return frechet_distance(extract(self.classifier, images), self.real)


@dataclass(frozen=True)
class Task:
    """A set of images as each seed knows it.

    Attributes:
        train: The images to learn from, shape ``(seeds, N, C, H, W)``.
        held_out: As many as a sampler makes, which neither network nor classifier has seen.
        judges: What measures the distance, for each seed.
        noise: The starting points of all samplers, shape ``(seeds * n, C, H, W)``.
    """

    train: Tensor
    held_out: Tensor
    judges: Sequence[Judge]
    noise: Tensor

    def floor(self) -> list[float]:
        """Return the distance of held-out images for each seed: what a perfect sampler is given."""
        return self.distances(self.held_out.flatten(0, 1))

    def distances(self, images: Tensor) -> list[float]:
        """Return the distance for each seed of images of shape ``(seeds * n, C, H, W)``."""
        parts = split(images.clamp(-1, 1), len(self.judges))
        return [judge.distance(part) for judge, part in zip(self.judges, parts, strict=True)]


def task_of(name: str, size: Size, device: torch.device) -> Task:
    """Return digits or glyphs with a split, a classifier and noise for each seed."""
    parts = [drawn(IMAGES[name](seed), size.train, size.images, seed) for seed in size.seeds]
    judges = [
        Judge(images.to(device), labels.to(device), seed, size.judge)
        for seed, (images, labels, _) in zip(size.seeds, parts, strict=True)
    ]
    shape = (size.images, *parts[0][0].shape[1:])
    noise = [torch.randn(shape, generator=seeded(seed, "noise")) for seed in size.seeds]
    train, held_out = (torch.stack([part[k] for part in parts]).to(device) for k in (0, 2))
    return Task(train, held_out, judges, torch.cat(noise).to(device))


def drawn(images: ImageSet, train: int, held_out: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return images to learn from, their labels, and images held out, no image in both."""
    count = train + held_out
    # Images of an unlimited set are drawn alike: the first are as good as any.
    whole = count if images.unlimited else len(images)
    order = torch.randperm(whole, generator=seeded(seed, "split"))
    found, labels = images.batch(order[:count])
    assert labels is not None
    return found[:train], labels[:train], found[train:]


# ----------------------------------------------------------------------------------------------- the training


class OneByOne(nn.Module):
    """As :class:`benchmarks.ensemble.Ensemble`, but network after network: faster for convolutions on a CPU.

    Args:
        build: Makes one network, from torch's global generator.
        seeds: The seeds.
    """

    def __init__(self, build: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        super().__init__()
        self.members = nn.ModuleList()
        with torch.random.fork_rng(devices=[]):
            for seed in seeds:
                torch.manual_seed(seed)
                self.members.append(build())

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        """Return the answers, each row by the network of its seed."""
        count = len(self.members)
        rows = zip(self.members, t.chunk(count), x.chunk(count), strict=True)
        return torch.cat([member(times, points) for member, times, points in rows])


def network_of(path: Interpolant, size: Size, device: torch.device) -> nn.Module:
    """Return a U-Net for each seed, with a second head for the denoiser where there is latent noise."""
    heads = 1 if path.gamma.vanishes else 2
    build = partial(UNet, 1, out_channels=heads, width=size.width, multipliers=(1, 2), blocks=1, attention=())
    many = OneByOne if device.type == "cpu" else Ensemble
    network: nn.Module = many(build, size.seeds)
    return (network if heads == 1 else Heads(network)).to(device)


def loss_of(path: Interpolant, seeds: int) -> Loss:
    """Return the loss: IADB's regression, and where there is latent noise the denoiser's beside it."""
    if path.gamma.vanishes:
        return Regression(path, weight=sum_over_seeds(seeds))
    # Without the weight the velocity's loss has an infinite variance for some latent noises.
    velocity = Weighted(Velocity(), InverseVariance(path.gamma, 1.0))
    return Regression(path, Joint(velocity=velocity, denoiser=Denoiser()), weight=sum_over_seeds(seeds))


def trained(path: Interpolant, task: Task, size: Size) -> LearnedField:
    """Return the field of the networks of all seeds.

    Raises:
        ValueError: When the path does not start at its source, so that noise would be no start.
    """
    x0, x1 = task.noise[:2], task.train.flatten(0, 1)[:2]
    if not torch.allclose(path.interpolate(torch.zeros(2).to(x0), x0, x1), x0):
        raise ValueError("does not start at noise")
    device = task.noise.device
    network = network_of(path, size, device)
    train(
        network,
        loss_of(path, len(size.seeds)),
        Pairs(minibatches(task.train), size.rows, generator_of(size, "training", device)),
        steps=size.steps,
        optimizer=partial(torch.optim.AdamW, lr=3e-3, weight_decay=0.0),
        schedule=WarmUp(size.steps // 10, steps=size.steps),
    )
    network.eval()
    if path.gamma.vanishes:
        return LearnedField(path, velocity=network, gaussian_source=True)
    return LearnedField(path, velocity=network, denoiser=network)


def minibatches(images: Tensor) -> Callable[[int, torch.Generator], tuple[Tensor, Tensor]]:
    """Return what draws pairs of noise and images for all seeds, each from its own images."""
    seeds, count = images.shape[:2]
    first = torch.arange(seeds, device=images.device)[:, None] * count

    def draw(rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(count, (seeds, rows), generator=generator, device=images.device)
        x1 = images.flatten(0, 1)[(first + chosen).flatten()]
        return torch.randn(x1.shape, generator=generator, device=images.device), x1

    return draw


def generator_of(size: Size, purpose: str, device: torch.device) -> torch.Generator:
    """Return a generator on the device, the same for all paths and samplers."""
    return torch.Generator(device).manual_seed(mixed(size.seeds[0], purpose))


# ----------------------------------------------------------------------------------------------- the sampling


@dataclass(frozen=True)
class Study:
    """What is found of one path.

    Attributes:
        curves: The distances, by sampler.
        slopes: The slopes of its own derivative and of the learned velocity.
    """

    curves: dict[str, Figures]
    slopes: dict[str, Cell]


def studied(path: Interpolant, task: Task, size: Size) -> Study:
    """Train on a path and return what is found; what fails is told in place of a number."""
    try:
        field = trained(path, task, size)
        generator = generator_of(size, "slopes", task.noise.device)
        slopes = {
            name: measured(found)
            for name, found in slopes_of(field, task.train, generator, 32 * size.rows).items()
        }
    except Exception as error:
        why = short(error)
        failed: Figures = dict.fromkeys(size.evaluations, why)
        return Study(dict.fromkeys(SAMPLERS, failed), dict.fromkeys(SLOPES, missing(why)))
    return Study({name: dict(curve(field, name, task, size)) for name in SAMPLERS}, slopes)


def curve(field: Field, name: str, task: Task, size: Size) -> Iterator[tuple[int, list[float] | str]]:
    """Yield the distances of a sampler at each number of evaluations."""
    for evaluations in size.evaluations:
        sampler = SAMPLERS[name](field.interpolant, evaluations)
        if name in SETTLED and evaluations > SETTLED[name] and not isinstance(sampler, str):
            sampler = "not measured"
        if isinstance(sampler, str):
            yield evaluations, sampler
            continue
        try:
            yield evaluations, sampled(field, sampler, task, size, evaluations)
        except Exception as error:
            yield evaluations, short(error)


def sampled(field: Field, sampler: Sampler, task: Task, size: Size, evaluations: int) -> list[float] | str:
    """Return the distances of what a sampler makes of the noise."""
    path = sampler.sample(field, task.noise, generator=generator_of(size, "sampling", task.noise.device))
    assert path.evaluations == evaluations
    return task.distances(path.final) if path.final.isfinite().all() else "not finite"


def short(error: Exception) -> str:
    """Return an error for a cell of a table."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:60]}"


def euler(path: Interpolant, evaluations: int) -> Sampler | str:
    return ODESampler(steps=evaluations, end_only=True)


def heun(path: Interpolant, evaluations: int) -> Sampler | str:
    if evaluations % 2:
        return "two evaluations a step"
    return ODESampler("heun", steps=evaluations // 2, end_only=True)


def ddim(path: Interpolant, evaluations: int) -> Sampler | str:
    if not path.gamma.vanishes or not isinstance(path, SpatiallyLinear):
        return "has latent noise" if not path.gamma.vanishes else "not spatially linear"
    return DDIMSampler(evaluations, end_only=True)


def sde(path: Interpolant, evaluations: int) -> Sampler | str:
    if path.gamma.vanishes and not isinstance(path, SpatiallyLinear):
        return "no score"
    epsilon = ProportionalToAlpha(1.0) if path.gamma.vanishes else ProportionalToGamma(1.0)
    return SDESampler(epsilon, steps=evaluations, end_only=True)


SAMPLERS: Mapping[str, Callable[[Interpolant, int], Sampler | str]] = {
    EULER: euler,
    HEUN: heun,
    DDIM: ddim,
    SDE: sde,
}
"""By name: from a path and a number of evaluations to a sampler, or why there is none."""

SETTLED = {HEUN: 32, DDIM: 32}
"""From where on more evaluations change nothing that these distances can tell."""


@torch.no_grad()
def slopes_of(field: Field, images: Tensor, generator: torch.Generator, rows: int) -> dict[str, list[float]]:
    r"""Return for each seed the slope of the points' motion on a velocity, 1 when the velocity is right.

    .. math:: E[v \cdot \Delta] / E[|v|^2], \qquad \Delta = (x_{t+h} - x_{t-h}) / 2h

    for v the path's time derivative and for v the learned velocity. The motion is taken from positions alone.
    """
    path, h = field.interpolant, 1e-3
    x0, x1 = (points.double() for points in minibatches(images)(rows, generator))
    z = torch.randn(x0.shape, generator=generator, device=x0.device, dtype=x0.dtype)
    t = 0.05 + 0.9 * torch.rand(len(x0), generator=generator, device=x0.device, dtype=x0.dtype)
    before, here, after = (path.sample(at, x0, x1, z=z) for at in (t - h, t, t + h))
    motion = (after.xt - before.xt) / (2 * h)
    # In one go: which network answers a row follows from its place among all.
    learned = field.velocity(t.float(), here.xt.float())
    return {OWN: slope(here.xt_dot, motion, len(images)), LEARNED: slope(learned, motion, len(images))}


def slope(velocity: Tensor, motion: Tensor, seeds: int) -> list[float]:
    """Return the least-squares factor from velocity to motion, for each seed."""
    products, squares = (split(velocity * other, seeds).flatten(1).sum(1) for other in (motion, velocity))
    found: list[float] = (products / squares).tolist()
    return found


# --------------------------------------------------------------------------------------- tables and pictures


def distance_table(name: str, size: Size, curves: Mapping[str, Mapping[str, Figures]], floor: Cell) -> Table:
    """Return the distances of all paths and samplers, with the floor."""
    columns = columns_of(size)
    table = Table(
        f"{name}_distance",
        f"{name.capitalize()}, 8 x 8 pixels: Fréchet distance of {size.images} images, by evaluations",
        list(columns),
        note=(
            f"To the {size.train:,} images of the training, on features of a classifier trained on these; ± "
            f"is the standard error over {len(size.seeds)} seeds, each with its own split, classifier, U-Net "
            f"({size.steps} steps of {size.rows} pairs) and noise. Few images are further away than many: "
            f"the floor is {size.images} real ones that neither network nor classifier has seen. All steps "
            "are equal. The SDEs have epsilon = alpha, or gamma where there is latent noise."
        ),
    )
    table.add("real images, held out", dict.fromkeys(columns, floor), FLOOR)
    for label, figures in rows_of(curves).items():
        table.add(label, {c: cell(figures[n]) for c, n in columns.items()})
    return table


def difference_table(name: str, size: Size, curves: Mapping[str, Mapping[str, Figures]]) -> Table:
    """Return each row less the first, seed by seed."""
    columns = columns_of(size)
    rows = rows_of(curves)
    first = next(iter(rows))
    table = Table(
        f"{name}_difference",
        f"{name.capitalize()}: Fréchet distance less that of {first}, seed by seed",
        list(columns),
        note="Negative is better. Images, classifier, minibatches and noise are the same on both sides.",
    )
    for label in list(rows)[1:]:
        table.add(label, {c: difference(rows[label][n], rows[first][n]) for c, n in columns.items()})
    return table


def slope_table() -> Table:
    """Return the table of slopes, with the row that says what is right."""
    table = Table(
        "slope",
        "How far points move for one unit of a path's time derivative, and of the network's velocity",
        list(SLOPES),
        note=(
            "Least squares of the motion between two near times, taken from positions alone, on either. A "
            "time derivative 5 % too large is at 0.952, and so is then its network, learnt to the end; one "
            "that has learnt too little is above. The Fréchet distance hardly sees such an error, since "
            "whoever goes too fast still ends at an image."
        ),
        digits=4,
    )
    table.add("right", dict.fromkeys(SLOPES, plain(1)), LIMIT)
    return table


def columns_of(size: Size) -> dict[str, int]:
    """Return the numbers of evaluations that the tables show, by column."""
    return {f"{n} evaluations" if n == COLUMNS[0] else f"{n}": n for n in COLUMNS if n in size.evaluations}


def rows_of(curves: Mapping[str, Mapping[str, Figures]]) -> dict[str, Figures]:
    """Return the figures by label."""
    return {
        label_of(path, sampler): figures
        for path, found in curves.items()
        for sampler, figures in found.items()
    }


def label_of(path: str, sampler: str) -> str:
    return f"{path}, {sampler}" + (" (IADB)" if (path, sampler) == ("linear", EULER) else "")


def cell(figures: list[float] | str) -> Cell:
    return missing(figures) if isinstance(figures, str) else measured(figures)


def difference(figures: list[float] | str, base: list[float] | str) -> Cell:
    if isinstance(figures, str) or isinstance(base, str):
        return missing(figures if isinstance(figures, str) else "nothing to compare with")
    # Nothing below a thousandth means anything: DDIM differs from Euler's steps by roundings.
    return measured(round(mine - other, 3) + 0.0 for mine, other in zip(figures, base, strict=True))


def plots_of(
    name: str, size: Size, curves: Mapping[str, Mapping[str, Figures]], floor: Cell
) -> Iterator[Plot]:
    """Yield the curves of the ODEs, and those of DDIM and the SDEs beside the first path's Euler steps."""
    first = next(iter(curves))
    by_ode = [(path, sampler) for path in curves for sampler in (EULER, HEUN)]
    others = [(first, EULER), *((path, sampler) for path in curves for sampler in (DDIM, SDE))]
    for kind, title, shown in (("ode", "the ODE", by_ode), ("sde", "DDIM and SDEs", others)):
        series = [series_of(label_of(path, sampler), curves[path][sampler]) for path, sampler in shown]
        yield Plot(
            f"{name}_{kind}",
            f"{name.capitalize()} by {title}: Fréchet distance of {size.images} images",
            "evaluations of the network",
            "Fréchet distance",
            [one for one in series if one.x],
            floor=floor["value"],
            floor_label="real images, held out",
        )


def series_of(label: str, figures: Figures) -> Series:
    """Return the curve of a row, where it has numbers."""
    cells = {n: cell(found) for n, found in figures.items()}
    known = {n: one for n, one in cells.items() if one.get("value") is not None}
    return Series(
        label,
        [float(n) for n in known],
        [one["value"] for one in known.values()],
        [one["standard_error"] or 0.0 for one in known.values()],
    )
