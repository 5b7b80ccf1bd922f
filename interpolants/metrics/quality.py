"""How good generated images are, each figure beside what real images get at the same numbers of samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, final

import torch
from torch import Tensor

from interpolants._tensors import check_instance
from interpolants.metrics.estimates import Estimate, disjoint_parts, jackknife_error, mean_of
from interpolants.metrics.features import extract
from interpolants.metrics.frechet import FeatureStatistics, frechet_distance
from interpolants.metrics.neighbours import Copies, copies, density_coverage, precision_recall
from interpolants.metrics.transport import sliced_wasserstein2

__all__ = ["Compared", "ImageQuality", "image_quality"]


@final
@dataclass(frozen=True)
class Compared:
    """A measure of generated images beside that of held-out real ones.

    Args:
        generated: The measure of the generated images.
        floor: That of held-out real images, from equally many samples against equally many reference images;
            None where there are too few of them.
        reference: How many reference images each value was taken against.
    """

    generated: Estimate
    floor: Estimate | None
    reference: int


@final
@dataclass(frozen=True)
class ImageQuality:
    """What :func:`image_quality` measured; ``print`` it for a table.

    Args:
        frechet_all: Fréchet distance of all generated images. It falls with their number, so it has a floor
            only where there are no more of them than of held-out images.
        frechet: Fréchet distance of as many generated images as held-out ones.
        precision: Share of generated images among the real ones.
        recall: Share of real images among the generated ones.
        density: How densely real images surround generated ones.
        coverage: Share of real images with a generated one near.
        sliced_wasserstein2: Sliced Wasserstein distance of the pixels.
        copies: Whether generated images are nearer to reference images, in pixels, than held-out ones are.

    Example:
        >>> draw = lambda n, seed: torch.rand(n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
        >>> generator = torch.Generator().manual_seed(0)
        >>> flatten = lambda x: x.flatten(1)
        >>> quality = image_quality(draw(300, 1), draw(400, 2), draw(100, 3), flatten, generator=generator)
        >>> print(quality)
        measure           better  generated  real  n    reference
        ...
        >>> quality.to_dict()["frechet"]["floor"]["n"]
        100
    """

    frechet_all: Compared
    frechet: Compared
    precision: Compared
    recall: Compared
    density: Compared
    coverage: Compared
    sliced_wasserstein2: Compared
    copies: Copies

    def to_dict(self) -> dict[str, Any]:
        """Return everything as nested dictionaries of numbers, for JSON."""
        return asdict(self)

    def table(self) -> str:
        """Return a table with, for each measure, the real value and the numbers of samples."""
        rows: list[tuple[str, ...]] = [("measure", "better", "generated", "real", "n", "reference")]
        rows += [_row(name, better, getattr(self, field)) for name, better, field in _MEASURES]
        share = Estimate(self.copies.share, self.copies.standard_error, self.copies.n)
        real = f"{self.copies.expected:.4g}"
        rows.append(("copies", "as real", str(share), real, str(share.n), str(self.copies.training)))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
        ]
        return "\n".join(line.rstrip() for line in lines)

    def __str__(self) -> str:
        return self.table()


_MEASURES = [
    ("Fréchet, all", "lower", "frechet_all"),
    ("Fréchet", "lower", "frechet"),
    ("precision", "higher", "precision"),
    ("recall", "higher", "recall"),
    ("density", "as real", "density"),
    ("coverage", "higher", "coverage"),
    ("sliced W2, pixels", "lower", "sliced_wasserstein2"),
]


def image_quality(
    generated: Tensor,
    reference: Tensor,
    held_out: Tensor,
    extractor: Callable[[Tensor], Tensor],
    *,
    k: int = 5,
    draws: int = 10,
    projections: int = 256,
    copy_quantile: float = 0.01,
    batch_size: int = 256,
    device: torch.device | str | None = None,
    generator: torch.Generator | None = None,
) -> ImageQuality:
    """Return how good generated images are, and how good held-out real images would be in their place.

    Every measure but the share of copies depends on the number of samples, so generated and held-out images
    are compared in sets of one size: that of the smaller of the two. The larger one gives several disjoint
    sets, and the mean over them. Fréchet and sliced distances are to all reference images. Precision, recall,
    density and coverage need sets alike in size and are taken against as many random reference images. A
    perfect generator is at the floor, not at zero.

    A standard error is that of drawing other generated or other held-out images, given the reference and the
    extractor: from the spread over the sets, or by leaving out groups where there is one set, or unknown
    (None) for the measures of neighbours from one set.

    Args:
        generated: Images, shape ``(N, C, H, W)``.
        reference: Real images, shape ``(M, C, H, W)``; those that the generator and the extractor have been
            trained on, if any were: the copies are sought there.
        held_out: Real images that neither has seen, shape ``(H, C, H, W)``.
        extractor: From images to features, as for :func:`extract`.
        k: The neighbour that gives the radius of precision, recall, density and coverage.
        draws: The largest number of sets to average, at least 1.
        projections: The number of directions of the sliced distance, the same for all sets.
        copy_quantile: The share of fresh images that counts as copies, as for :func:`copies`.
        batch_size: How many images the extractor sees at once.
        device: Where the extractor is, as for :func:`extract`.
        generator: Source of sets and directions.

    Returns:
        The measures.

    Raises:
        ValueError: If images differ in shape, are not finite, or are too few: a set must hold more than ``k``
            and the held-out images at least ``1 / copy_quantile - 1``.
        TypeError: If images are no tensors or of two kinds, or the extractor returns no tensor.

    Example:
        See :class:`ImageQuality`.
    """
    for name, images in (("generated", generated), ("reference", reference), ("held_out", held_out)):
        check_instance(name, images, Tensor, "torch.zeros(1000, 1, 8, 8)")
        if images.is_floating_point() != generated.is_floating_point():
            raise TypeError(
                f"all images must be floating point, or none; {name} are {images.dtype}, "
                f"generated {generated.dtype}"
            )
        if len(images) <= k:
            raise ValueError(f"{name} must hold more than k = {k} images, not {len(images)}")
    copied = copies(generated, reference, held_out, quantile=copy_quantile)
    real, fake, fresh = (
        extract(extractor, images, batch_size=batch_size, device=device)
        for images in (reference, generated, held_out)
    )
    statistics = FeatureStatistics.of(real)
    parts = [_parts(len(images), held_out, generated, draws, generator) for images in (fake, fresh)]

    def frechet(features: Tensor) -> float:
        return frechet_distance(features, statistics)

    seed = _seed(generator)

    def sliced(images: Tensor) -> float:
        directions = torch.Generator().manual_seed(seed)
        return sliced_wasserstein2(images, reference, projections=projections, generator=directions)

    at_equal_size = Compared(
        _smooth(frechet, fake, parts[0], generator), _smooth(frechet, fresh, parts[1], generator), len(real)
    )
    of_all = at_equal_size.generated
    if len(fake) > len(fresh):
        of_all = _smooth(frechet, fake, [torch.arange(len(fake))], generator)
    size = min(len(parts[0][0]), len(real))
    against = disjoint_parts(len(real), size, at_most=draws, generator=generator)
    neighbours = [
        _neighbours(real, against, features, [part[:size] for part in some], k)
        for features, some in zip((fake, fresh), parts, strict=True)
    ]
    precision, recall, density, coverage = (
        Compared(ours, floor, size) for ours, floor in zip(*neighbours, strict=True)
    )
    return ImageQuality(
        frechet_all=Compared(of_all, at_equal_size.floor if len(fake) <= len(fresh) else None, len(real)),
        frechet=at_equal_size,
        precision=precision,
        recall=recall,
        density=density,
        coverage=coverage,
        sliced_wasserstein2=Compared(
            _smooth(sliced, generated, parts[0], generator),
            _smooth(sliced, held_out, parts[1], generator),
            len(real),
        ),
        copies=copied,
    )


def _parts(count: int, a: Tensor, b: Tensor, draws: int, generator: torch.Generator | None) -> list[Tensor]:
    return disjoint_parts(count, min(len(a), len(b)), at_most=draws, generator=generator)


def _smooth(
    function: Callable[[Tensor], float],
    samples: Tensor,
    parts: list[Tensor],
    generator: torch.Generator | None,
) -> Estimate:
    """Return the mean over the parts of a smooth function, with an error also where there is one part."""
    sets = [samples[part.to(samples.device)] for part in parts]
    estimate = mean_of([function(some) for some in sets], len(sets[0]))
    if len(sets) > 1:
        return estimate
    error = jackknife_error(function, sets[0], generator=generator)
    return Estimate(estimate.value, error, estimate.n)


def _neighbours(
    real: Tensor, against: list[Tensor], features: Tensor, parts: list[Tensor], k: int
) -> list[Estimate]:
    """Return precision, recall, density and coverage over pairs of a part and a reference set."""
    pairs = max(len(parts), len(against)) if len(parts) == 1 else len(parts)
    values = [
        _four(
            real[against[i % len(against)].to(real.device)],
            features[parts[i % len(parts)].to(real.device)],
            k,
        )
        for i in range(pairs)
    ]
    estimates = [mean_of(column, len(parts[0])) for column in zip(*values, strict=True)]
    if len(parts) > 1:
        return estimates
    # The pairs share their one part, so their spread says nothing of another.
    return [Estimate(estimate.value, None, estimate.n, estimate.repeats) for estimate in estimates]


def _four(real: Tensor, features: Tensor, k: int) -> tuple[float, ...]:
    return (*precision_recall(real, features, k=k), *density_coverage(real, features, k=k))


def _seed(generator: torch.Generator | None) -> int:
    home = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=home))


def _row(name: str, better: str, measure: Compared) -> tuple[str, ...]:
    floor = "-" if measure.floor is None else str(measure.floor)
    return (name, better, str(measure.generated), floor, str(measure.generated.n), str(measure.reference))
