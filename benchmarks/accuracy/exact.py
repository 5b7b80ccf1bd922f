"""Every path, latent noise and sampler against the exact field between two Gaussian mixtures.

Nothing is learned, so that all errors are the samplers' or the path's own. The field is that of the path as
its samples show it (:class:`Observed`): a path whose derivative is wrong has a wrong field.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from benchmarks.accuracy._observed import add_row, oracle_of, truth_of
from benchmarks.record import FLOOR, Cell, Plot, Result, Series, Table, estimated, measured, missing, plain
from benchmarks.settings import Settings
from interpolants import (
    Constant,
    Epsilon,
    GaussianMixture,
    Interpolant,
    MixtureOracle,
    ODESampler,
    ProportionalToGamma,
    SDESampler,
    log_likelihood,
)

NOISES = ("+brownian", "+quadratic", "+sine-squared")
PATHS = (
    *(path + noise for path in ("linear", "trigonometric", "variance-preserving") for noise in ("", *NOISES)),
    *("encoding-decoding" + noise for noise in ("", *NOISES[:2])),
)
FEW = ("linear", "linear+brownian", "trigonometric+quadratic", "encoding-decoding", "variance-preserving")
"""Shown in the figures when nothing else is asked for: all would hide each other."""

ODE_STAGES = {"euler": 1, "heun": 2, "rk4": 4}
SDE_STAGES = {"euler": 1, "heun": 2, "srk": 2}
SHOWN = (32, 128)
TOLERANCES = (1e-3, 1e-5, 1e-7)
REFERENCE, DENSITY = 1e-10, 1e-8
"""Tolerances of dopri8 for the reference of the ODE and for the log density."""

EPSILONS: dict[str, Epsilon] = {"constant": Constant(0.5), "gamma": ProportionalToGamma(1.0)}
EPSILON_TITLES = {"constant": "epsilon = 0.5", "gamma": "epsilon = gamma"}
GROUPS = 10
"""Independent parts of a sample, from which an error's own error is told."""

WRONG = 5.0
"""Standard errors from the truth at which a path is called wrong: chance does it once in a million."""


@dataclass(frozen=True)
class Effort:
    """How much is done in one dimension.

    Attributes:
        ode: Points of each seed for the ODE's error.
        density: Points of each seed for the log density; 0 leaves it out.
        variance: Points of each seed for the variance of the end points.
        sde: Points of each seed for the SDE's error; 0 leaves it out.
        evaluations: The numbers of evaluations of the ODE's curves.
        sde_evaluations: Likewise of the SDE's.
        reference: The steps of the SDE's reference.
    """

    ode: int
    density: int
    variance: int
    sde: int
    evaluations: Sequence[int] = SHOWN
    sde_evaluations: Sequence[int] = SHOWN
    reference: int = 128


SMOKE = {2: Effort(20, 10, 500, 100)}
SMALL = {2: Effort(40, 20, 1_000, 200), 16: Effort(20, 5, 500, 0)}
FULL = {
    2: Effort(80, 20, 2_000, 400, (8, 16, 32, 64, 128), (16, 32, 64, 128)),
    16: Effort(40, 5, 500, 100),
    128: Effort(10, 0, 100, 0),
}


def run(settings: Settings) -> Result:
    """Return the tables of the ODE, of the truth and of the SDE, for every dimension."""
    seeds = settings.seed_list(2, 3, 5)
    paths = settings.paths(settings.pick(FEW[:2], FEW, PATHS))
    result = Result([], [], {"seeds": seeds, "paths": list(paths)})
    for dim, effort in settings.pick(SMOKE, SMALL, FULL).items():
        study = Study(*mixtures(dim, settings.device), effort, tuple(seeds))
        shown = settings.interpolants or FEW
        for table, plots in (truth(study, paths), ode(study, paths, shown)):
            result.tables.append(table)
            result.plots += plots
        for name in EPSILONS if effort.sde else ():
            # With latent noise there is one more epsilon; what it shows, it shows in the plane.
            if name == "gamma" and (dim > 2 or all(path.gamma.vanishes for path in paths.values())):
                continue
            table, plots = sde(study, paths, shown, name)
            result.tables.append(table)
            result.plots += plots
    return result


@dataclass(frozen=True)
class Study:
    """Two mixtures, the effort and the seeds."""

    source: GaussianMixture
    target: GaussianMixture
    effort: Effort
    seeds: tuple[int, ...]

    @property
    def dim(self) -> int:
        """The dimension."""
        return self.source.dim

    def points(self, mixture: GaussianMixture, count: int, purpose: int) -> Tensor:
        """Return so many points of a mixture for each seed, those of one seed after those of another."""
        return torch.cat([mixture.sample(count, generator=self._generator(s, purpose)) for s in self.seeds])

    def field(self, path: Interpolant) -> MixtureOracle:
        """Return the exact field of a path."""
        return oracle_of(path, self.source, self.target)

    def split(self, values: Tensor) -> Tensor:
        """Return one value for each seed and point, ``(seeds, n)``."""
        return values.reshape(len(self.seeds), -1)

    def _generator(self, seed: int, purpose: int) -> torch.Generator:
        return torch.Generator(self.source.means.device).manual_seed(1_000_003 * purpose + seed)


def mixtures(dim: int, device: torch.device) -> tuple[GaussianMixture, GaussianMixture]:
    """Return a source of two modes and a target of three, in double precision.

    The modes lie in planes of random directions, every mode has its own covariance, and the mean of the
    source is 0, as a path needs that leaves it infinitely fast.
    """
    draw = torch.Generator().manual_seed(dim)
    source = _mixture(torch.tensor([0.5, 0.5]), 1.5, (0.25, 1.0), dim, draw)
    target = _mixture(torch.tensor([0.5, 0.3, 0.2]), 3.0, (0.1, 0.8), dim, draw)
    return source.to(device), target.to(device)


def _mixture(
    weights: Tensor, radius: float, variances: tuple[float, float], dim: int, draw: torch.Generator
) -> GaussianMixture:
    angles = 2 * math.pi * torch.arange(len(weights), dtype=torch.float64) / len(weights)
    means = radius * torch.stack([angles.cos(), angles.sin()], dim=1) @ _rotation(dim, draw)[:2]
    spread = torch.linspace(*variances, dim, dtype=torch.float64).diag()
    turns = [_rotation(dim, draw) for _ in weights]
    covariances = torch.stack([turn @ spread @ turn.T for turn in turns])
    return GaussianMixture(weights.double(), means, (covariances + covariances.mT) / 2)


def _rotation(dim: int, draw: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(dim, dim, dtype=torch.float64, generator=draw)).Q


def moments(mixture: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Return the mean and the covariance of a mixture."""
    mean = mixture.weights @ mixture.means
    apart = mixture.means - mean
    within = torch.einsum("k,kde->de", mixture.weights, mixture.covariances)
    return mean, within + torch.einsum("k,kd,ke->de", mixture.weights, apart, apart)


# ---- does the exact flow reach the target?


def truth(study: Study, paths: Mapping[str, Interpolant]) -> tuple[Table, list[Plot]]:
    """Return what shows that the flow of a path's field carries the source to the target."""
    table = Table(
        f"exact_truth_d{study.dim}",
        f"Does the flow reach the target? d = {study.dim}",
        ["log density, RMS error (nats)", "variance, relative error", "verdict"],
        note="Log density: log_likelihood through the flow (dopri8, tolerance 1e-8) minus the target's own, "
        "at points of the target: 0 but for the tolerance. Variance: the mean square distance of end points "
        f"(dopri5, tolerance 1e-6, {len(study.seeds) * study.effort.variance:,} points) from the target's "
        "mean, over its exact value, minus 1; the last row is the same of fresh points of the target. A path "
        f"is called wrong that is off by more than {WRONG:g} standard errors, or by 0.001 nats.",
    )
    for name, path in paths.items():
        add_row(table, name, partial(truth_cells, study, path))
    fresh = study.points(study.target, study.effort.variance, purpose=3)
    table.add("fresh points (floor)", {table.columns[1]: variance_error(study, fresh)}, FLOOR)
    return table, []


def truth_cells(study: Study, path: Interpolant) -> dict[str, Cell]:
    """Return the cells of one path."""
    field = study.field(path)
    density = density_error(study, field) if study.effort.density else missing("not measured here")
    starts = study.points(study.source, study.effort.variance, purpose=2)
    ends = ODESampler("dopri5", 1, rtol=1e-6, atol=1e-6).sample(field, starts).final
    variance = variance_error(study, ends)
    return {
        "log density, RMS error (nats)": density,
        "variance, relative error": variance,
        "verdict": plain("right" if _right(density, variance) else "WRONG"),
    }


def density_error(study: Study, field: MixtureOracle) -> Cell:
    """Return how far the log density along the flow is from the target's."""
    x1 = study.points(study.target, study.effort.density, purpose=1)
    sampler = ODESampler("dopri8", 1, rtol=DENSITY, atol=DENSITY)
    found = log_likelihood(field, x1, study.source.log_prob, sampler=sampler).value
    wrong = found - study.target.log_prob(x1)
    return measured(study.split(wrong.square()).mean(1).sqrt().tolist())


def variance_error(study: Study, ends: Tensor) -> Cell:
    """Return the relative error of the mean square distance from the target's mean."""
    mean, covariance = moments(study.target)
    values = (ends - mean).square().sum(1) / covariance.trace() - 1
    return estimated(float(values.mean()), float(values.std()) / math.sqrt(len(values)))


def _right(density: Cell, variance: Cell) -> bool:
    if variance["value"] is None or ("value" in density and density["value"] is None):
        return False
    near = abs(variance["value"]) < WRONG * variance["standard_error"]
    return near and density.get("value", 0.0) < 1e-3


# ---- the ODE


def ode(study: Study, paths: Mapping[str, Interpolant], shown: Sequence[str]) -> tuple[Table, list[Plot]]:
    """Return the error of the ODE's end points against evaluations."""
    columns = [f"{method}, {n}" for n in SHOWN for method in ODE_STAGES]
    table = Table(
        f"exact_ode_d{study.dim}",
        f"ODE: RMS error of the end points at 32 and 128 evaluations, d = {study.dim}",
        [*columns, "dopri5, 1e-5", "its evaluations"],
        note="Over points and coordinates, against dopri8 at 1e-10 in double precision, from the same "
        f"{len(study.seeds) * study.effort.ode:,} points: no sampled distance, so no floor but 1e-10. The "
        "reference takes the true derivatives of the path's weights: the error of a path whose own are wrong "
        f"does not fall with evaluations. That the reference is right, exact_truth_d{study.dim} shows.",
    )
    plots = {
        method: Plot(
            f"exact_ode_{method}_d{study.dim}",
            f"ODE by {method}: error of the end points, d = {study.dim}",
            "evaluations of the field",
            "RMS error",
        )
        for method in (*ODE_STAGES, "dopri5")
    }

    def cells(name: str, path: Interpolant) -> dict[str, Cell]:
        curves = strong_errors(study, study.field(path))
        for method, curve in curves.items():
            if name in shown:
                plots[method].series.append(_series(name, curve))
        found = {f"{m}, {n}": curves[m][n] for m in ODE_STAGES for n in SHOWN}
        evaluations = list(curves["dopri5"])[TOLERANCES.index(1e-5)]
        return {
            **found,
            "dopri5, 1e-5": curves["dopri5"][evaluations],
            "its evaluations": plain(evaluations),
        }

    for name, path in paths.items():
        add_row(table, name, partial(cells, name, path))
    return table, [plot for plot in plots.values() if plot.series]


def strong_errors(study: Study, field: MixtureOracle) -> dict[str, dict[int, Cell]]:
    """Return the errors of the end points by method and number of evaluations."""
    x0 = study.points(study.source, study.effort.ode, purpose=0)
    reference = ODESampler("dopri8", 1, rtol=REFERENCE, atol=REFERENCE).sample(truth_of(field), x0).final
    samplers = {
        method: [ODESampler(method, n // stages, end_only=True) for n in study.effort.evaluations]
        for method, stages in ODE_STAGES.items()
    }
    samplers["dopri5"] = [ODESampler("dopri5", 1, rtol=each, atol=each) for each in TOLERANCES]
    curves: dict[str, dict[int, Cell]] = {}
    for method, several in samplers.items():
        curves[method] = {}
        for sampler in several:
            trajectory = sampler.sample(field, x0)
            wrong = (trajectory.final - reference).square().mean(1)
            errors = study.split(wrong).mean(1).sqrt()
            curves[method][trajectory.evaluations] = measured(errors.tolist())
    return curves


# ---- the SDE


def sde(
    study: Study, paths: Mapping[str, Interpolant], shown: Sequence[str], name: str
) -> tuple[Table, list[Plot]]:
    """Return the weak error of the SDE against evaluations, for one epsilon."""
    count = len(study.seeds) * study.effort.sde
    columns = [f"{method}, {n}" for n in SHOWN for method in SDE_STAGES]
    table = Table(
        f"exact_sde_{name}_d{study.dim}",
        f"SDE, {EPSILON_TITLES[name]}: error of the moments at 32 and 128 evaluations, d = {study.dim}",
        [*columns, "reference against exact"],
        note="The error of the mean over the root of the trace of the covariance and that of the covariance "
        f"over its norm, added in square; {count:,} points. By method: against srk in "
        f"{study.effort.reference} steps of the same starts and Brownian paths, so that most chance cancels. "
        "The reference takes the true derivatives of the path's weights. Last column: this reference against "
        "the target's exact moments, and in the last row as many fresh points of the target; its standard "
        "error is what this sample can tell. All are unbiased in square: 0 means too small to be told.",
    )
    plot = Plot(
        f"exact_sde_{name}_d{study.dim}",
        f"SDE, {EPSILON_TITLES[name]}: error of the moments, d = {study.dim}",
        "evaluations of the field",
        "relative error of mean and covariance",
    )

    def cells(label: str, path: Interpolant) -> dict[str, Cell]:
        if name == "gamma" and path.gamma.vanishes:
            raise ValueError("no latent noise, so that this is the ODE")
        curves, last = weak_errors(study, study.field(path), EPSILONS[name])
        if label in shown:
            plot.series.extend(_series(f"{label}, {method}", curve) for method, curve in curves.items())
        found = {f"{m}, {n}": curves[m][n] for m in SDE_STAGES for n in SHOWN}
        return {**found, "reference against exact": last}

    for label, path in paths.items():
        add_row(table, label, partial(cells, label, path))
    fresh = study.points(study.target, study.effort.sde, purpose=5)
    floor = distance(relative_moments(fresh, study.target, exact=True))
    table.add("fresh points (floor)", {"reference against exact": floor}, FLOOR)
    return table, [plot] if plot.series else []


def weak_errors(
    study: Study, field: MixtureOracle, epsilon: Epsilon
) -> tuple[dict[str, dict[int, Cell]], Cell]:
    """Return the errors by method and number of evaluations, and that of the reference."""
    x0 = study.points(study.source, study.effort.sde, purpose=4)
    own = [1_000_000 * seed + k for seed in study.seeds for k in range(study.effort.sde)]

    def found(field: MixtureOracle, method: str, steps: int) -> Tensor:
        sampler = SDESampler(epsilon, method, steps, end_only=True)
        return relative_moments(sampler.sample(field, x0, seeds=own).final, study.target)

    reference = found(truth_of(field), "srk", study.effort.reference)
    curves = {
        method: {
            n: distance(found(field, method, n // stages) - reference) for n in study.effort.sde_evaluations
        }
        for method, stages in SDE_STAGES.items()
    }
    return curves, distance(reference - exact_moments(study.target))


def relative_moments(x: Tensor, target: GaussianMixture, *, exact: bool = False) -> Tensor:
    """Return mean and covariance about the target's, relative to its own, for each group of the points.

    Args:
        x: Points, shape ``(n, D)``, n a multiple of the number of groups.
        target: Whose moments they should have.
        exact: Whether to subtract the exact ones.
    """
    mean, covariance = moments(target)
    groups = (x - mean).reshape(GROUPS, -1, x.shape[1])
    first = groups.mean(1) / covariance.trace().sqrt()
    second = groups.mT @ groups / groups.shape[1] / torch.linalg.matrix_norm(covariance)
    found = torch.cat([first, second.flatten(1)], dim=1)
    return found - exact_moments(target) if exact else found


def exact_moments(target: GaussianMixture) -> Tensor:
    """Return what :func:`relative_moments` tends to."""
    mean, covariance = moments(target)
    return torch.cat([torch.zeros_like(mean), (covariance / torch.linalg.matrix_norm(covariance)).flatten()])


def distance(groups: Tensor) -> Cell:
    """Return the length of the mean of independent vectors ``(G, P)``, unbiased in square, with its error.

    The mean of the products of different groups has no noise of its own in expectation, unlike the length of
    a mean. Its standard error is the jackknife's.
    """
    products = groups @ groups.T
    rows = products.sum(1) - products.diagonal()
    count = len(groups)
    total = rows.sum()
    square = float(total / (count * (count - 1)))
    without = (total - 2 * rows) / ((count - 1) * (count - 2))
    error = float(((count - 1) / count * (without - without.mean()).square().sum()).sqrt())
    value = math.sqrt(max(square, 0.0))
    # The root's derivative, held finite where the square is not above its own error.
    slope = 2 * max(value, math.sqrt(error) / 2)
    return estimated(value, error / slope if slope else 0.0, groups=count)


def _series(label: str, curve: Mapping[int, Cell]) -> Series:
    kept = {n: cell for n, cell in sorted(curve.items()) if cell["value"]}
    return Series(
        label,
        [float(n) for n in kept],
        [cell["value"] for cell in kept.values()],
        [cell["standard_error"] or 0.0 for cell in kept.values()],
    )
