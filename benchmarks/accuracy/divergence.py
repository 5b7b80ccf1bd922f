r"""KL(target | model) against epsilon at d = 128: without samples where moments tell it, else by likelihood.

Between Gaussians every exact field is affine in x. With an affine error added to velocity and score the model
stays Gaussian: its mean and covariance obey linear equations, and the divergence has a closed form for the
ODE, for the SDE with every epsilon and for the chain of Euler's steps. The same errors are then added to the
exact fields of a mixture, where likelihoods are estimated.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from benchmarks.accuracy._observed import add_row, oracle_of, truth_of
from benchmarks.record import (
    Cell,
    Plot,
    Result,
    Series,
    Table,
    measured,
    missing,
    plain,
)
from benchmarks.settings import Settings
from interpolants import (
    Constant,
    Field,
    GaussianMixture,
    Hutchinson,
    Interpolant,
    MixtureOracle,
    ODESampler,
    SDESampler,
    kl_bound,
    log_likelihood,
    sde_log_likelihood_bound,
)

PATHS = (
    "linear",
    "linear+brownian",
    "linear+sine-squared",
    "trigonometric",
    "variance-preserving",
    "encoding-decoding",
)
EPSILONS = (0.0, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
EVIDENCE, GIRSANOV = (1.0, 3.0), (0.3, 1.0, 3.0, 10.0)
"""The epsilons at which the bounds are found."""

VELOCITY_ERROR, SCORE_ERROR = 0.3, 0.1
"""The root mean square of the errors, over coordinates, at a point from N(0, Id)."""


@dataclass(frozen=True)
class Effort:
    """How much is done.

    Attributes:
        steps: Steps of the fourth-order rule for the moments.
        chain: Steps of the chains.
        points: Points of each seed for likelihoods.
        probes: Probes of the divergence of a flow.
        dim: The dimension.
    """

    steps: int
    chain: int
    points: int
    probes: int = 8
    dim: int = 128


def run(settings: Settings) -> Result:
    """Return the tables of closed forms, of bounds and of a mixture."""
    seeds = settings.seed_list(2, 3, 4)
    effort = settings.pick(Effort(128, 64, 8, 2, dim=32), Effort(128, 128, 16, 4), Effort(128, 128, 24, 8))
    default = settings.pick(PATHS[:2], PATHS[:3], PATHS)
    paths = settings.paths(default)
    study = Study(effort, tuple(seeds), settings.device)
    parts = [closed(study, paths), chains(study, paths)]
    return Result(
        [*(table for table, _ in parts), bounds(study, paths), mixture(study, paths)],
        [plot for _, plots in parts for plot in plots],
        {"seeds": seeds, "dim": effort.dim, "velocity_error": VELOCITY_ERROR, "score_error": SCORE_ERROR},
    )


# ---- errors of a field


@dataclass(frozen=True)
class Error:
    """An affine error ``x -> shift + matrix x`` of velocity and of score, the same at all times.

    Attributes:
        velocity: The shift ``(D,)`` and the matrix ``(D, D)`` of the velocity's.
        score: Those of the score's.
    """

    velocity: tuple[Tensor, Tensor]
    score: tuple[Tensor, Tensor]


def error_of(seed: int, dim: int, device: torch.device, scale: float = 1.0) -> Error:
    """Return the error of a seed: half of its square a shift, half a random matrix."""
    draw = torch.Generator().manual_seed(7_919 + seed)

    def affine(size: float) -> tuple[Tensor, Tensor]:
        shift = torch.randn(dim, dtype=torch.float64, generator=draw)
        matrix = torch.randn(dim, dim, dtype=torch.float64, generator=draw) / math.sqrt(dim)
        return (shift * size / math.sqrt(2)).to(device), (matrix * size / math.sqrt(2)).to(device)

    return Error(affine(scale * VELOCITY_ERROR), affine(scale * SCORE_ERROR))


class Mistaken(Field):
    """A field with an error added to its velocity and to its score: as if learned."""

    def __init__(self, exact: MixtureOracle, error: Error) -> None:
        self.exact = exact
        self.error = error
        self.interpolant = exact.interpolant
        self.kinks = exact.kinks

    @override
    def velocity(self, t: Any, x: Tensor, **conditions: Any) -> Tensor:
        return self.exact.velocity(t, x) + _affine(self.error.velocity, x)

    @override
    def score(self, t: Any, x: Tensor, **conditions: Any) -> Tensor:
        return self.exact.score(t, x) + _affine(self.error.score, x)

    @override
    def together(self, names: Sequence[str], t: Any, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        errors = {"velocity": self.error.velocity, "score": self.error.score}
        answers = self.exact.together(names, t, x)
        return {name: answer + _affine(errors[name], x) for name, answer in answers.items()}

    @override
    def denoiser(self, t: Any, x: Tensor, **conditions: Any) -> Tensor:
        raise NotImplementedError("only velocity and score are mistaken")

    @override
    def x0(self, t: Any, x: Tensor, **conditions: Any) -> Tensor:
        raise NotImplementedError("only velocity and score are mistaken")

    @override
    def x1(self, t: Any, x: Tensor, **conditions: Any) -> Tensor:
        raise NotImplementedError("only velocity and score are mistaken")


def _affine(part: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    return part[0] + x @ part[1].T


# ---- densities


@dataclass(frozen=True)
class Study:
    """The effort, the seeds and the device."""

    effort: Effort
    seeds: tuple[int, ...]
    device: torch.device
    kept: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def closed_forms(self, name: str, path: Interpolant) -> Tensor:
        """Return the divergences of the mistaken fields of a path, worked out once: two tables show them."""
        if name not in self.kept:
            self.kept[name] = divergences(self, path, self.errors(), EPSILONS)
        return self.kept[name]

    @property
    def dim(self) -> int:
        """The dimension."""
        return self.effort.dim

    def generator(self, seed: int, purpose: int) -> torch.Generator:
        """Return where one seed's draws for one purpose come from."""
        return torch.Generator(self.device).manual_seed(1_000_003 * purpose + seed)

    def errors(self, scale: float = 1.0) -> list[Error]:
        """Return the error of each seed's field."""
        return [error_of(seed, self.dim, self.device, scale) for seed in self.seeds]

    @property
    def source(self) -> GaussianMixture:
        """N(0, Id)."""
        eye = torch.eye(self.dim, dtype=torch.float64)
        return GaussianMixture(torch.ones(1).double(), torch.zeros(1, self.dim).double(), eye[None]).to(
            self.device
        )

    @property
    def gaussian(self) -> GaussianMixture:
        """A Gaussian with variances from 1/4 to 2 along the axes, and all means 1."""
        spread = torch.linspace(0.25, 2.0, self.dim, dtype=torch.float64).diag()
        mean = torch.ones(1, self.dim, dtype=torch.float64)
        return GaussianMixture(torch.ones(1).double(), mean, spread[None]).to(self.device)

    @property
    def modes(self) -> GaussianMixture:
        """Three modes at distance 4 from 0, each with variances from 1/4 to 1 along the axes."""
        means = 4 * torch.eye(self.dim, dtype=torch.float64)[:3]
        spread = torch.linspace(0.25, 1.0, self.dim, dtype=torch.float64).diag()
        weights = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
        return GaussianMixture(weights, means, spread.expand(3, -1, -1).clone()).to(self.device)


# ---- closed forms


@dataclass(frozen=True)
class Affine:
    """Velocity and score of the exact field between two Gaussians, at every node of a grid.

    All covariances are diagonal, so that two points tell a field that is affine: 0 and (1, ..., 1).

    Attributes:
        velocity: Shifts and slopes, each ``(T, D)``.
        score: Likewise.
    """

    velocity: tuple[Tensor, Tensor]
    score: tuple[Tensor, Tensor]


def affine_of(field: MixtureOracle, times: Sequence[float]) -> Affine:
    """Return the exact field at given times."""
    dim, like = field.source.dim, field.source.means
    points = torch.stack([like.new_zeros(dim), like.new_ones(dim)])
    parts: dict[str, list[Tensor]] = {"velocity": [], "score": []}
    for t in times:
        answers = field.together(tuple(parts), t, points)
        for name, found in parts.items():
            found.append(answers[name])
    velocity, score = (torch.stack(found) for found in parts.values())
    return Affine(_line(velocity), _line(score))


def _line(answers: Tensor) -> tuple[Tensor, Tensor]:
    return answers[:, 0], answers[:, 1] - answers[:, 0]


def drift_of(affine: Affine, node: int, error: Error, epsilons: Tensor) -> tuple[Tensor, Tensor]:
    """Return the shift ``(E, D)`` and the matrix ``(E, D, D)`` of the drift for every epsilon."""
    level = epsilons[:, None]
    shift = affine.velocity[0][node] + error.velocity[0] + level * (affine.score[0][node] + error.score[0])
    wrong = error.velocity[1] + level[..., None] * error.score[1]
    return shift, wrong + (affine.velocity[1][node] + level * affine.score[1][node]).diag_embed()


def final_moments(affine: Affine, error: Error, epsilons: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return mean ``(E, D)`` and covariance ``(E, D, D)`` at t = 1, from N(0, Id), by the rule of Runge.

    Args:
        affine: The exact field at the nodes k / (2 steps).
        error: What is added to it.
        epsilons: Shape ``(E,)``.
        steps: The number of steps.
    """
    dim = affine.velocity[0].shape[1]
    mean = epsilons.new_zeros(len(epsilons), dim)
    covariance = torch.eye(dim).to(epsilons).repeat(len(epsilons), 1, 1)
    noise = 2 * epsilons[:, None, None] * torch.eye(dim).to(epsilons)

    def rates(node: int, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        shift, matrix = drift_of(affine, node, error, epsilons)
        moved = matrix @ covariance
        return shift + (matrix @ mean[..., None])[..., 0], moved + moved.mT + noise

    h = 1 / steps
    for k in range(steps):
        slopes = [rates(2 * k, mean, covariance)]
        for node, length in ((2 * k + 1, h / 2), (2 * k + 1, h / 2), (2 * k + 2, h)):
            last = slopes[-1]
            slopes.append(rates(node, mean + length * last[0], covariance + length * last[1]))
        (a, p), (b, q), (c, r), (d, s) = slopes
        mean = mean + h / 6 * (a + 2 * b + 2 * c + d)
        covariance = covariance + h / 6 * (p + 2 * q + 2 * r + s)
    return mean, covariance


def chain_moments(affine: Affine, error: Error, epsilons: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return mean and covariance after so many Euler-Maruyama steps, the field at the nodes k / steps."""
    dim = affine.velocity[0].shape[1]
    eye, h = torch.eye(dim).to(epsilons), 1 / steps
    mean = epsilons.new_zeros(len(epsilons), dim)
    covariance = eye.repeat(len(epsilons), 1, 1)
    for k in range(steps):
        shift, matrix = drift_of(affine, k, error, epsilons)
        mean = mean + h * (shift + (matrix @ mean[..., None])[..., 0])
        step = eye + h * matrix
        covariance = step @ covariance @ step.mT + 2 * h * epsilons[:, None, None] * eye
    return mean, covariance


def divergence_of(target: GaussianMixture, mean: Tensor, covariance: Tensor) -> Tensor:
    """Return KL(target | N(mean, covariance)) for each of a batch, in nats; infinite where that is none."""
    normal, spread = target.means[0], target.covariances[0]
    factor, failed = torch.linalg.cholesky_ex((covariance + covariance.mT) / 2)
    inverse = torch.cholesky_inverse(factor)
    apart = mean - normal
    square = (apart * (inverse @ apart[..., None])[..., 0]).sum(-1)
    trace = (inverse @ spread).diagonal(dim1=-2, dim2=-1).sum(-1)
    volumes = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1) - torch.logdet(spread)
    value = (trace + square - len(normal) + volumes) / 2
    return torch.where((failed == 0) & value.isfinite(), value, torch.inf)


def closed(study: Study, paths: Mapping[str, Interpolant]) -> tuple[Table, list[Plot]]:
    """Return the divergence of the ODE and of the SDEs, from mistaken fields and from exact ones."""
    columns = [_column(each) for each in EPSILONS]
    table = Table(
        "divergence_gaussian",
        f"KL(target | model) in nats against epsilon: Gaussian target, d = {study.dim}, closed form",
        [*columns, "least at epsilon", "exact field"],
        note="The exact field plus a random affine error, at N(0, Id) of root mean square "
        f"{VELOCITY_ERROR} in the velocity and {SCORE_ERROR} in the score, another for each seed. Mean and "
        "covariance of the model solve linear equations: nothing is sampled, and the errors are those over "
        "seeds. Last column: the greatest divergence of the ODE and the SDE of epsilon 1 without that error "
        f"({study.effort.steps} steps of fourth order), 0 but for the steps when the path's derivative is "
        "right. Continuous time: chains have a table of their own.",
    )
    plot = Plot(
        "divergence_gaussian",
        f"KL(target | model) against epsilon, mistaken fields, d = {study.dim}",
        "epsilon",
        "nats",
    )

    def cells(name: str, path: Interpolant) -> dict[str, Cell]:
        found = study.closed_forms(name, path)
        plot.series.append(_series(name, EPSILONS[1:], [_cell(found[:, k]) for k in range(1, len(EPSILONS))]))
        floor = divergences(study, path, study.errors(0.0)[:1], (0.0, 1.0))
        return {
            **{column: _cell(found[:, k]) for k, column in enumerate(columns)},
            "least at epsilon": _least(found),
            "exact field": _number(float(floor.abs().max())),
        }

    for name, path in paths.items():
        add_row(table, name, partial(cells, name, path))
    return table, [plot] if plot.series else []


def divergences(
    study: Study, path: Interpolant, errors: Sequence[Error], epsilons: Sequence[float]
) -> Tensor:
    """Return the divergences in continuous time, one row for each error, a column for each epsilon."""
    steps = study.effort.steps
    affine = affine_of(
        oracle_of(path, study.source, study.gaussian), [k / (2 * steps) for k in range(2 * steps + 1)]
    )
    levels = torch.tensor(epsilons, dtype=torch.float64, device=study.device)
    found = [final_moments(affine, error, levels, steps) for error in errors]
    return torch.stack([divergence_of(study.gaussian, *one) for one in found])


def chains(study: Study, paths: Mapping[str, Interpolant]) -> tuple[Table, list[Plot]]:
    """Return the divergence of Euler's steps, with mistaken fields and with the exact one."""
    columns = [_column(each) for each in EPSILONS]
    title = f"KL(target | model) in nats of {study.effort.chain} Euler steps against epsilon, d = {study.dim}"
    table = Table(
        "divergence_chain",
        title,
        [*columns, "least at epsilon"],
        note="The moments of the chain of Euler-Maruyama steps towards the Gaussian target, in closed form, "
        "with the errors of divergence_gaussian: what a large epsilon mends, the steps take back. In rows of "
        "the exact field the steps alone are at fault and nothing is random, so that there are no errors.",
    )
    plot = Plot("divergence_chain", title, "epsilon", "nats")

    def cells(label: str, path: Interpolant) -> dict[str, Cell]:
        found = chain_divergences(study, path, study.errors())
        several = [_cell(values) for values in found.unbind(1)]
        plot.series.append(_series(label, EPSILONS[1:], several[1:]))
        return {**dict(zip(columns, several, strict=True)), "least at epsilon": _least(found)}

    def exact(path: Interpolant) -> dict[str, Cell]:
        found = chain_divergences(study, path, study.errors(0.0)[:1])
        several = [_number(value) for value in found[0].tolist()]
        return {**dict(zip(columns, several, strict=True)), "least at epsilon": _least(found)}

    for label, path in paths.items():
        add_row(table, label, partial(cells, label, path))
        add_row(table, f"{label}, exact field", partial(exact, path))
    return table, [plot] if plot.series else []


def chain_divergences(study: Study, path: Interpolant, errors: Sequence[Error]) -> Tensor:
    """Return the divergences after all Euler steps, one row for each error, a column for each epsilon."""
    steps = study.effort.chain
    affine = affine_of(oracle_of(path, study.source, study.gaussian), [k / steps for k in range(steps)])
    levels = torch.tensor(EPSILONS, dtype=torch.float64, device=study.device)
    found = [chain_moments(affine, error, levels, steps) for error in errors]
    return torch.stack([divergence_of(study.gaussian, *one) for one in found])


def _column(epsilon: float) -> str:
    return f"epsilon {epsilon:g}" if epsilon else "ODE"


def _cell(values: Tensor) -> Cell:
    return measured(values.tolist()) if values.isfinite().all() else missing("diverges")


def _number(value: float) -> Cell:
    """Return a number that nothing random went into."""
    return plain(f"{value:.3g}") if math.isfinite(value) else missing("diverges")


def _least(found: Tensor) -> Cell:
    return plain(f"{EPSILONS[int(found.mean(0).argmin())]:g}")


def _series(name: str, x: Sequence[float], cells: Sequence[Cell]) -> Series:
    kept = [(at, cell) for at, cell in zip(x, cells, strict=True) if cell.get("value")]
    return Series(
        name,
        [at for at, _ in kept],
        [cell["value"] for _, cell in kept],
        [cell["standard_error"] or 0.0 for _, cell in kept],
    )


# ---- likelihoods


def bounds(study: Study, paths: Mapping[str, Interpolant]) -> Table:
    """Return estimates and bounds beside the closed form, for mistaken fields between Gaussians."""
    columns = [
        "ODE, closed form",
        "ODE, log_likelihood",
        "SDE, closed form",
        "SDE, evidence bound",
        "SDE, kl_bound",
    ]
    table = Table(
        "divergence_bounds",
        f"Estimates and bounds of KL(target | model) beside the closed form, in nats, d = {study.dim}",
        columns,
        note=f"The mistaken fields of the Gaussian problem, epsilon 1. {_protocol(study)} An estimate should "
        "agree with its closed form within the errors, a bound lie above it. The evidence bound is that of "
        f"{study.effort.chain} Euler steps, so that it counts the steps too. All rows have the same points "
        "and share their chance.",
    )

    def cells(name: str, path: Interpolant) -> dict[str, Cell]:
        exact = oracle_of(path, study.source, study.gaussian)
        closed_forms = study.closed_forms(name, path)
        found = [Estimates(study, exact, Mistaken(exact, e), s) for s, e in _pairs(study)]
        return {
            "ODE, closed form": _cell(closed_forms[:, 0]),
            "ODE, log_likelihood": measured([one.flow() for one in found]),
            "SDE, closed form": _cell(closed_forms[:, EPSILONS.index(1.0)]),
            "SDE, evidence bound": measured([one.evidence(1.0) for one in found]),
            "SDE, kl_bound": measured([one.girsanov(1.0) for one in found]),
        }

    for name, path in paths.items():
        add_row(table, name, partial(cells, name, path))
    return table


def mixture(study: Study, paths: Mapping[str, Interpolant]) -> Table:
    """Return estimates and bounds for mistaken fields towards a mixture."""
    columns = [
        "ODE",
        *(f"epsilon {e:g}, evidence bound" for e in EVIDENCE),
        *(f"epsilon {e:g}, kl_bound" for e in GIRSANOV),
        "exact field, ODE",
        "exact field, epsilon 1, evidence bound",
    ]
    table = Table(
        "divergence_mixture",
        f"KL(target | model) in nats towards a mixture of three modes, by likelihood, d = {study.dim}",
        columns,
        note=f"The same errors added to the exact fields of the mixture. {_protocol(study)} The ODE's is an "
        f"estimate; an SDE's is an upper bound: of its {study.effort.chain} Euler steps by the evidence "
        "bound, of continuous time by kl_bound. The last two columns are without an error of the field: the "
        "first is 0 but for tolerance and chance, the second is what the steps cost.",
    )

    def cells(path: Interpolant) -> dict[str, Cell]:
        exact = oracle_of(path, study.source, study.modes)
        found = [Estimates(study, exact, Mistaken(exact, e), s) for s, e in _pairs(study)]
        right = [Estimates(study, exact, exact, s) for s in study.seeds]
        return {
            "ODE": measured([one.flow() for one in found]),
            **{
                f"epsilon {e:g}, evidence bound": measured([one.evidence(e) for one in found])
                for e in EVIDENCE
            },
            **{f"epsilon {e:g}, kl_bound": measured([one.girsanov(e) for one in found]) for e in GIRSANOV},
            "exact field, ODE": measured([one.flow() for one in right]),
            "exact field, epsilon 1, evidence bound": measured([one.evidence(1.0) for one in right]),
        }

    for name, path in paths.items():
        add_row(table, name, partial(cells, path))
    return table


@dataclass(frozen=True)
class Estimates:
    """One seed's divergences of a field, from likelihoods at its own points of the target."""

    study: Study
    exact: MixtureOracle
    field: Field
    seed: int

    def flow(self) -> float:
        """Return an unbiased estimate for the ODE."""
        x1 = self._target(1)
        found = log_likelihood(
            self.field,
            x1,
            self.exact.source.log_prob,
            sampler=ODESampler("dopri5", 1, rtol=1e-4, atol=1e-4),
            divergence=Hutchinson(self.study.effort.probes),
            generator=self.study.generator(self.seed, 2),
        )
        return float((self.exact.target.log_prob(x1) - found.value).mean())

    def evidence(self, epsilon: float) -> float:
        """Return an upper bound for the SDE's chain of Euler steps."""
        x1 = self._target(1)
        found = sde_log_likelihood_bound(
            self.field,
            x1,
            self.exact.source.log_prob,
            sampler=SDESampler(Constant(epsilon), steps=self.study.effort.chain),
            generator=self.study.generator(self.seed, 3),
        )
        return float(self.exact.target.log_prob(x1).mean()) - found.value

    def girsanov(self, epsilon: float) -> float:
        """Return an upper bound for the SDE in continuous time."""
        x0 = self.exact.source.sample(self._count, generator=self.study.generator(self.seed, 4))
        draws = self.study.generator(self.seed, 5)
        return kl_bound(self.field, truth_of(self.exact), x0, self._target(6), epsilon, generator=draws).value

    @property
    def _count(self) -> int:
        return self.study.effort.points

    def _target(self, purpose: int) -> Tensor:
        return self.exact.target.sample(self._count, generator=self.study.generator(self.seed, purpose))


def _pairs(study: Study) -> list[tuple[int, Error]]:
    return list(zip(study.seeds, study.errors(), strict=True))


def _protocol(study: Study) -> str:
    return (
        f"Each of {len(study.seeds)} seeds has its own error, {study.effort.points} points of the target and "
        f"{study.effort.probes} probes of the divergence of each."
    )
