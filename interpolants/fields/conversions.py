r"""How one quantity of a field follows from others: linear equations in :math:`(\eta_0, \eta_1, \eta_z)`.

Every quantity of a spatially linear interpolant is a row of coefficients of these three: x is
:math:`(\alpha, \beta, \gamma)`, the velocity :math:`(\dot\alpha, \dot\beta, \dot\gamma)`, the score
:math:`(0, 0, -1/\gamma)`. What is wanted is a combination of what is known. On other interpolants only the
score and the denoiser are tied, by :math:`s = -\eta_z / \gamma`.

At the ends some weights of the combination have a finite limit, which is taken; where they grow without
bound while what they add up to stays finite, the networks' values there do not determine it, and it is
taken at the nearest time where rounding errors are no larger than that distance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch._C import _functorch

from interpolants.fields.field import Diffusion
from interpolants.interpolant import Interpolant, SpatiallyLinear

POINT, RATIO = "x", "ratio"
"""Rows that cost nothing: the point itself, and what is 0 when the source is N(0, Id)."""

Rows = dict[str, Tensor]

# Two times in no special place, on either side: what holds there holds but for isolated times.
_GENERIC = (0.3127, 0.7193)
# The middle is special to many paths: there a derivative of gamma vanishes, or a weight.
_PROBES = (1e-3, *_GENERIC, 0.5, 1 - 1e-3)
# Limits at the ends are read off here: 1 - t is exact, and its square still far from rounding away.
_NEAR = 2.0**-30


def rows_of(path: Interpolant, t: Tensor, gaussian_source: bool) -> Rows:
    """Return every known or wanted quantity as its row of coefficients at each time, shape (T, n)."""
    gamma = torch.broadcast_to(path.gamma(t), t.shape)
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if not isinstance(path, SpatiallyLinear):
        if path.gamma.vanishes:
            return {}
        return {"denoiser": one.unsqueeze(-1), "score": (-1 / gamma).unsqueeze(-1)}
    alpha, beta = path.alpha(t), path.beta(t)
    rows = {
        POINT: (alpha, beta, gamma),
        "velocity": (path.alpha_derivative(t), path.beta_derivative(t), path.gamma.derivative(t)),
        "x0": (one, zero, zero),
        "x1": (zero, one, zero),
    }
    if not path.gamma.vanishes:
        rows["denoiser"] = (zero, zero, one)
        rows["score"] = (zero, zero, -1 / gamma)
        if gaussian_source:  # s = -eta_0 / alpha = -eta_z / gamma, so this combination is 0.
            rows[RATIO] = (gamma, zero, -alpha)
    elif gaussian_source:
        rows["score"] = (-1 / alpha, zero, zero)
    width = 2 if path.gamma.vanishes else 3
    return {
        name: torch.stack([torch.broadcast_to(c, t.shape) for c in row[:width]], dim=-1)
        for name, row in rows.items()
    }


def device_of(path: Interpolant) -> torch.device:
    """Return where a path with parameters can be evaluated; the CPU for all others."""
    parameters = (p for module in path.modules_to_train().values() for p in module.parameters())
    return next((p.device for p in parameters), torch.device("cpu"))


Row = Callable[[Tensor, Rows], Tensor]
"""The row of what is wanted, from times ``(T,)`` and the known rows there: shape ``(T, n)``."""

Solve = Callable[[Sequence[Tensor], Tensor], Tensor]
"""From K known rows and a wanted one to the weights, shape ``(T, K)``: see :func:`combine`."""


@dataclass(frozen=True)
class Part:
    """One term of what is wanted.

    Attributes:
        sources: The known quantities that it is combined from.
        wanted: Its row; None when it is its one source, times ``scale``.
        smooth: The row of what varies slowly at the ends, where ``wanted`` is ``scale`` times that; None
            when ``wanted`` itself does.
        scale: A function of time; None for 1.
    """

    sources: tuple[str, ...]
    wanted: Row | None = None
    smooth: Row | None = None
    scale: Callable[[Tensor], Tensor] | None = None

    def weights(self, t: Tensor, at: Tensor, rows: Rows, solve: Solve) -> Tensor:
        """Return the weights of the sources at ``at``, whose rows these are, for what is wanted at ``t``."""
        scale = torch.ones_like(t) if self.scale is None else torch.broadcast_to(self.scale(t), t.shape)
        if self.wanted is None:
            return scale.unsqueeze(-1)
        wanted = self.wanted(at, rows)
        if self.smooth is not None:
            moved = (t != at).unsqueeze(-1)
            wanted = torch.where(moved, scale.unsqueeze(-1) * self.smooth(at, rows), wanted)
        return solve([rows[source] for source in self.sources], wanted)


@dataclass(eq=False)
class Combination:
    """A quantity as a weighted sum of known ones, with weights that depend on time.

    Args:
        path: The interpolant.
        gaussian_source: Whether the source is N(0, Id).
        parts: The terms whose sum is wanted.
    """

    path: Interpolant
    gaussian_source: bool
    parts: Sequence[Part]
    sources: tuple[str, ...] = field(init=False)
    _margins: dict[float, tuple[float, float]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.sources = tuple(dict.fromkeys(name for part in self.parts for name in part.sources))

    def weights(self, t: Tensor, at: Tensor | None = None) -> Tensor:
        """Return the weights of the sources, shape ``(T, K)``; nan where they determine nothing.

        Args:
            t: Times in double precision, shape ``(T,)``.
            at: The times at which the sources are known, when not at ``t``.
        """
        at = t if at is None else at
        weights = self._solved(t, at)
        finite = weights.isfinite().all(-1, keepdim=True)
        if not is_any(~finite):
            return weights
        near = at.clamp(_NEAR, 1 - _NEAR)
        weights = torch.where(finite, weights, self._solved(t, near))
        # Where the sources say the same of each other, some of them may be enough.
        finite = weights.isfinite().all(-1, keepdim=True)
        return torch.where(finite, weights, self._solved(t, at, combine_some))

    def margins(self, rounding: float, *, keep: bool) -> tuple[float, float]:
        """Return how far from t = 0 and from t = 1 the sources must be taken, 0 where anywhere will do.

        Args:
            rounding: The relative precision of the sources.
            keep: Whether to keep the answer: not for a path that is being trained.
        """
        if rounding not in self._margins or not keep:
            with torch.no_grad():
                self._margins[rounding] = (self._margin(rounding, 0.0), self._margin(rounding, 1.0))
        return self._margins[rounding]

    def _solved(self, t: Tensor, at: Tensor, solve: Solve | None = None) -> Tensor:
        rows = rows_of(self.path, at, self.gaussian_source)
        total = at.new_zeros(len(at), len(self.sources))
        for part in self.parts:
            places = torch.tensor([self.sources.index(source) for source in part.sources], device=at.device)
            total = total.index_add(1, places, part.weights(t, at, rows, solve or combine))
        return total

    def _margin(self, rounding: float, end: float) -> float:
        # Distances from the end, growing by a factor of about 1.2 to a quarter.
        least = max(_NEAR, rounding)
        count = max(2, math.ceil(4 * math.log2(0.25 / least)))
        logarithms = torch.linspace(
            math.log2(least), -2, count, dtype=torch.float64, device=device_of(self.path)
        )
        distance = logarithms.exp2()
        error = rounding * self.amplification(distance if end == 0 else 1 - distance)
        known = torch.isfinite(error)
        if not known.any():
            return 0.0
        # Where the equations cannot be solved to rounding at all, and the error is nan, they can further in.
        mild = bool(error[0] <= 16 * error[known][-1])
        if mild and self._answered(torch.full_like(distance[:1], end)):
            return 0.0
        best = torch.where(known, torch.maximum(error, distance), torch.inf)
        return float(distance[int(best.argmin())])

    def _answered(self, t: Tensor) -> bool:
        """Return whether every source that is combined is finite in truth at ``t``."""
        rows = rows_of(self.path, t, self.gaussian_source)
        combined = {source for part in self.parts if part.wanted is not None for source in part.sources}
        # The rows of all but the velocity are what multiplies a quantity that is finite.
        return "velocity" not in combined or bool(rows["velocity"].isfinite().all())

    def amplification(self, t: Tensor) -> Tensor:
        """Return by how much the rounding errors of the sources are amplified, shape ``(T,)``."""
        rows = rows_of(self.path, t, self.gaussian_source)
        total = torch.zeros_like(t)
        for part in self.parts:
            if part.wanted is not None:
                sizes = torch.stack([rows[source].abs().amax(-1).clamp(min=1) for source in part.sources], -1)
                total = total + (part.weights(t, t, rows, combine).abs() * sizes).sum(-1)
        return total


class Conversions:
    """Finds how each quantity follows from the known ones.

    Args:
        path: The interpolant.
        known: The known quantities, each with what has to be evaluated for it: those with the same value
            come together.
        gaussian_source: Whether the source is N(0, Id).
    """

    def __init__(self, path: Interpolant, known: Mapping[str, Hashable], gaussian_source: bool) -> None:
        self.path = path
        self.known = dict(known)
        self.gaussian_source = gaussian_source

    def quantity(self, name: str) -> Combination | None:
        """Return a quantity as a combination of the known ones; None when it does not follow."""
        if name not in self._rows():
            return None
        if name == "denoiser":  # It vanishes at the ends like gamma, and the score does not.
            return self._combined(_row("denoiser"), smooth=_minus_score, scale=self.path.gamma)
        return self._combined(_row(name))

    def drift(self, epsilon: Diffusion, *, reverse: bool) -> Combination | None:
        r"""Return :math:`b \pm \epsilon s` as a combination; None when it does not follow."""
        known = "velocity" in self.known
        velocity = [Part(("velocity",))] if known else _parts(self.quantity("velocity"))
        score = _parts(self._diffusive(epsilon, -1.0 if reverse else 1.0))
        if not velocity or not score:
            return None
        return Combination(self.path, self.gaussian_source, [*velocity, *score])

    def _diffusive(self, epsilon: Diffusion, sign: float) -> Combination | None:
        path = self.path

        def level(t: Tensor) -> Tensor:
            return sign * epsilon(t, path)

        def over(amplitude: Callable[[Tensor, Interpolant], Tensor], place: int) -> Row:
            def row(t: Tensor, rows: Rows) -> Tensor:
                ratio = torch.broadcast_to(amplitude(t, path), t.shape)
                unit = torch.eye(rows["score"].shape[-1], dtype=t.dtype, device=t.device)[place]
                # Not by multiplication: infinity times 0 is no 0.
                return torch.where(unit == 1, -sign * ratio.unsqueeze(-1), 0.0)

            return row

        if "score" in self.known:
            return Combination(path, self.gaussian_source, [Part(("score",), scale=level)])
        if "score" not in self._rows():
            return None
        ways = []
        if not path.gamma.vanishes:
            ways.append(over(epsilon.over_gamma, -1))
        if self.gaussian_source and isinstance(path, SpatiallyLinear):
            ways.append(over(epsilon.over_alpha, 0))
        return self._best([self._combined(way, smooth=_row("score"), scale=level) for way in ways])

    def _combined(
        self, wanted: Row, *, smooth: Row | None = None, scale: Callable[[Tensor], Tensor] | None = None
    ) -> Combination | None:
        generic, times = self._rows(), self._times()
        row = wanted(times, generic)
        free = [name for name in (RATIO, POINT) if name in generic]
        names = [name for name in self.known if name in generic]
        found: list[tuple[int, Combination]] = []
        for size in range(1, row.shape[-1] + 1):
            for some in itertools.combinations([*names, *free], size):
                solved = combine([generic[name] for name in some], row, least=1e-9).isfinite().all(-1)
                if solved.any():
                    part = Part(some, wanted, smooth, scale)
                    found.append((int(solved.sum()), Combination(self.path, self.gaussian_source, [part])))
        most = max((times_solved for times_solved, _ in found), default=0)
        return self._best([combination for times_solved, combination in found if times_solved == most])

    def _best(self, ways: Sequence[Combination | None]) -> Combination | None:
        """Return the way with the mildest weights, to a factor of 16, and the fewest evaluations."""

        def cost(way: Combination) -> tuple[int, int, int, int, int]:
            groups = {self.known[source] for source in way.sources if source in self.known}
            with torch.no_grad():
                errors = way.amplification(self._times(_PROBES))
            known = errors.isfinite()
            worst = float(errors[known].max()) if known.any() else math.inf
            size = math.log2(max(worst, 1.0)) if worst < math.inf else 0
            return (int((~known).sum()), int(size / 4), len(groups), round(size), len(way.sources))

        return min((way for way in ways if way is not None), key=cost, default=None)

    def _times(self, times: Sequence[float] = _GENERIC) -> Tensor:
        return torch.tensor(times, dtype=torch.float64, device=device_of(self.path))

    def _rows(self) -> Rows:
        with torch.no_grad():
            return rows_of(self.path, self._times(), self.gaussian_source)


def combine(known: Sequence[Tensor], wanted: Tensor, *, least: float = 0.0) -> Tensor:
    """Return the weights of the known rows that add up to the wanted one, shape (T, K).

    By Cramer's rule on the columns where the rows are most independent, which keeps small weights beside
    large ones exact, unlike a factorisation.

    Args:
        known: K rows, at most three, each of shape ``(T, n)``.
        wanted: The row to reach, shape ``(T, n)``.
        least: Below this the rows, scaled to 1, count as dependent.

    Returns:
        The weights; nan where the wanted row is out of reach.
    """
    system = torch.stack(list(known), dim=-2)  # (T, K, n)
    size, width = system.shape[-2:]
    if size > width:
        return torch.full_like(system[..., 0], torch.nan)
    scale = system.abs().amax(-1).prod(-1)
    best, answer = None, torch.full_like(system[..., 0], torch.nan)
    for columns in itertools.combinations(range(width), size):
        square, target = system[..., columns], wanted[..., columns]
        volume = _determinant(square)
        # Finite before the choice between columns, so that gradients stay finite after it.
        divisor = torch.where(volume == 0, torch.ones_like(volume), volume)
        parts = []
        for k in range(size):
            replaced = torch.cat([square[:, :k], target.unsqueeze(1), square[:, k + 1 :]], dim=1)
            parts.append(_determinant(replaced) / divisor)
        weights = torch.stack(parts, dim=-1)
        relative = volume.abs() / scale
        usable = (relative > least) & weights.isfinite().all(-1)
        better = usable if best is None else usable & (relative > best)
        answer = torch.where(better.unsqueeze(-1), weights, answer)
        best = torch.where(better, relative, torch.zeros_like(relative) if best is None else best)
    reached = (answer.unsqueeze(-1) * system).sum(-2)
    # To rounding of the terms that are added.
    terms = (answer.unsqueeze(-1) * system).abs().sum(-2) + wanted.abs().amax(-1, keepdim=True)
    exact = (((reached - wanted).abs() <= 1e-10 * terms) & wanted.isfinite()).all(-1, keepdim=True)
    return torch.where(exact, answer, torch.nan)


def combine_some(known: Sequence[Tensor], wanted: Tensor) -> Tensor:
    """Return what :func:`combine` does, leaving out some of the rows where all are dependent."""
    answer = combine(known, wanted)
    for k in range(len(known) if len(known) > 1 else 0):
        fewer = combine_some([*known[:k], *known[k + 1 :]], wanted)
        fewer = torch.cat([fewer[:, :k], torch.zeros_like(fewer[:, :1]), fewer[:, k:]], dim=-1)
        answer = torch.where(answer.isfinite().all(-1, keepdim=True), answer, fewer)
    return answer


def is_any(conditions: Tensor) -> bool:
    """Return whether any holds, over all that torch.func.vmap runs at once."""
    while is_wrapped(conditions):
        conditions = _functorch.get_unwrapped(conditions)
    return bool(conditions.any())


def is_wrapped(t: Tensor) -> bool:
    """Return whether a tensor is one of torch.func's, which may stand for many or carry a derivative."""
    return not torch.compiler.is_compiling() and _functorch.is_functorch_wrapped_tensor(t)


def _determinant(matrix: Tensor) -> Tensor:
    if matrix.shape[-1] == 1:
        return matrix[..., 0, 0]
    if matrix.shape[-1] == 2:
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    a, b, c = matrix.unbind(-2)
    volume: Tensor = (a * torch.linalg.cross(b, c)).sum(-1)
    return volume


def _parts(combination: Combination | None) -> list[Part]:
    return [] if combination is None else list(combination.parts)


def _row(name: str) -> Row:
    return lambda t, rows: rows[name]


def _minus_score(t: Tensor, rows: Rows) -> Tensor:
    return -rows["score"]
