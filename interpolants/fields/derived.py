"""A field that knows some of its quantities and derives the others."""

from __future__ import annotations

import abc
import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad
from typing_extensions import override

from interpolants._tensors import Time, as_time, expand
from interpolants.fields.conversions import (
    POINT,
    RATIO,
    Combination,
    Conversions,
    device_of,
    is_any,
    is_wrapped,
)
from interpolants.fields.field import (
    NAMES,
    Diffusion,
    Field,
    FieldUnavailable,
    check_diffusion,
    double,
    vanishes,
)
from interpolants.interpolant import Interpolant, SpatiallyLinear

_TITLES = {
    "velocity": "the velocity",
    "denoiser": "the denoiser",
    "score": "the score",
    "x0": "E[x0]",
    "x1": "E[x1]",
}
# Why no other network helps: only these two ask for latent noise.
_NO_LATENT = {
    "denoiser": "there is no latent noise to average; train on an interpolant with a gamma",
    "score": (
        "without latent noise it follows only when the source is N(0, Id); if it is, say "
        "gaussian_source=True, otherwise train on an interpolant with a gamma"
    ),
}
# How a quantity is found is kept for so many, drifts for diffusions among them.
_FOUND = 64

# What no network is asked for.
_FREE = (POINT, RATIO)

_Plan = tuple[Time, Mapping[str, float | Tensor]]


class _Grid(NamedTuple):
    """Plans for many times, in few objects: Python's collector of cycles counts what is kept."""

    sources: tuple[str, ...]
    places: dict[float, int]
    at: list[float]
    weights: list[float]

    def plan(self, time: float) -> _Plan | None:
        """Return the plan for a time; None when there is none, or the sources do not determine the answer."""
        k = self.places.get(time)
        if k is None:
            return None
        count = len(self.sources)
        row = self.weights[k * count : (k + 1) * count]
        if not all(map(math.isfinite, row)):
            return None
        return self.at[k], dict(zip(self.sources, row, strict=True))


class DerivedField(Field):
    """A field that knows some quantities, from which :mod:`.conversions` derives the rest.

    Args:
        interpolant: The path.
        known: The names of what is known, each with what must be evaluated for it: names with the same
            value are evaluated together.
        gaussian_source: Whether the source is N(0, Id), independent of the target.
    """

    interpolant: Interpolant

    def __init__(
        self, interpolant: Interpolant, known: Mapping[str, Hashable], *, gaussian_source: bool
    ) -> None:
        self.interpolant = interpolant
        self.gaussian_source = gaussian_source
        self.kinks = interpolant.kinks
        self._conversions = Conversions(interpolant, known, gaussian_source)
        self._found: dict[Hashable, Combination] = {}
        # What is asked for, when and in which precision: at which time its sources are, and their weights.
        self._kept: dict[tuple[Hashable, torch.dtype, float], _Grid] = {}

    def __getstate__(self) -> dict[str, Any]:
        # What is kept is found again; it holds functions that cannot be pickled.
        return {**vars(self), "_found": {}, "_kept": {}}

    @abc.abstractmethod
    def outputs(
        self, names: Iterable[str], t: Time, x: Tensor, conditions: dict[str, Any]
    ) -> dict[str, Tensor]:
        """Return what is known, for some of its names."""

    @override
    def velocity(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        if "velocity" in self._conversions.known:  # A sampler's every step: what follows says the same.
            return self.outputs(("velocity",), t, x, conditions)["velocity"]
        return self.together(("velocity",), t, x, **conditions)["velocity"]

    @override
    def score(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("score",), t, x, **conditions)["score"]

    @override
    def denoiser(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("denoiser",), t, x, **conditions)["denoiser"]

    @override
    def x0(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("x0",), t, x, **conditions)["x0"]

    @override
    def x1(self, t: Time, x: Tensor, **conditions: Any) -> Tensor:
        return self.together(("x1",), t, x, **conditions)["x1"]

    @override
    def together(self, names: Sequence[str], t: Time, x: Tensor, **conditions: Any) -> dict[str, Tensor]:
        plans: dict[str, _Plan] = {}
        for name in names:
            known = name in self._conversions.known
            plans[name] = (t, {name: 1.0}) if known else self._plan(name, self._combination(name), t, x)
        return self._carried_out(plans, x, conditions)

    @override
    def drift(
        self,
        t: Time,
        x: Tensor,
        epsilon: Diffusion,
        *,
        reverse: bool = False,
        nearest: float = 0.0,
        **conditions: Any,
    ) -> Tensor:
        plan = None
        if isinstance(t, float):
            grid = self._kept.get((_drift(epsilon, reverse), x.dtype, nearest))
            plan = None if grid is None else grid.plan(t)
        if plan is None:
            check_diffusion(epsilon)
            level = epsilon(double(t), self.interpolant)
            if vanishes(level) and self._vanishes_beside(epsilon, double(t)):
                return self.velocity(t, x, **conditions)
            combination = self._combination(_drift(epsilon, reverse), epsilon)
            plan = self._plan(
                _drift(epsilon, reverse), combination, t, x, nearest, plain=not level.requires_grad
            )
        at, weights = plan
        needed = [source for source in weights if source not in _FREE]
        return _sum(weights, self.outputs(needed, at, x, conditions), x)

    @override
    @contextmanager
    def prepared(
        self,
        times: Sequence[float],
        x: Tensor,
        names: Sequence[str] = ("velocity",),
        *,
        epsilon: Diffusion | None = None,
        reverse: bool = False,
        nearest: float = 0.0,
    ) -> Iterator[None]:
        wanted: list[tuple[Hashable, Combination]] = []
        if self._learnable or not times:
            pass
        elif epsilon is None:
            wanted = [
                (name, self._combination(name)) for name in names if name not in self._conversions.known
            ]
        else:
            level = epsilon(torch.tensor(times, dtype=torch.float64), self.interpolant)
            if bool((level > 0).any()) and not level.requires_grad:
                key = _drift(epsilon, reverse)
                wanted = [(key, self._combination(key, epsilon))]
        # Kept for as long as the sampler runs: an epsilon, or a path, of the user's may change after that.
        self._kept = {
            (key, x.dtype, nearest): self._worked_out(combination, times, x.dtype, nearest)
            for key, combination in wanted
        }
        try:
            yield
        finally:
            self._kept = {}

    @override
    def require(self, *names: str) -> None:
        for name in names:
            if name not in self._conversions.known:
                self._combination(name)

    def expansion(
        self,
        times: Sequence[float],
        x: Tensor,
        *,
        epsilon: Diffusion | None = None,
        reverse: bool = False,
        nearest: float = 0.0,
    ) -> tuple[tuple[str, ...], list[tuple[float, ...]]]:
        """Return the velocity, or the drift, as one weighted sum of what is known, for many times at once.

        Args:
            times: The times.
            x: Points like those to come.
            epsilon: The diffusion of the drift; None for the velocity.
            reverse: As for :meth:`drift`.
            nearest: As for :meth:`drift`.

        Returns:
            The names of what is added up, and for each time a row: when it is asked for, and the weights.
            A weight is not finite where the sum does not determine the answer.
        """
        if epsilon is None and "velocity" in self._conversions.known:
            return ("velocity",), [(time, 1.0) for time in times]
        wanted: Hashable = "velocity" if epsilon is None else _drift(epsilon, reverse)
        combination = self._combination(wanted, epsilon)
        grid = self._worked_out(combination, times, x.dtype, nearest)
        count = len(grid.sources)
        rows = (grid.weights[k * count : (k + 1) * count] for k in range(len(times)))
        return grid.sources, [(at, *row) for at, row in zip(grid.at, rows, strict=True)]

    def expanded(self, names: Sequence[str], row: Tensor, x: Tensor, conditions: dict[str, Any]) -> Tensor:
        """Return the sum of :meth:`expansion` for one of its rows, given as a tensor."""
        at, *weights = row.unbind()
        known = self.outputs([name for name in names if name not in _FREE], at, x, conditions)
        return _sum(dict(zip(names, weights, strict=True)), known, x)

    @property
    def _learnable(self) -> bool:
        # Weights of a path that is being trained change, and carry gradients.
        return bool(self.interpolant.modules_to_train())

    def _vanishes_beside(self, epsilon: Diffusion, t: Tensor) -> bool:
        r"""Return whether :math:`\epsilon s` is 0 where :math:`\epsilon` is: not as :math:`-c\,\eta_z`."""
        path = self.interpolant
        ratios = []
        if "score" in self._conversions.known:
            return True
        if not path.gamma.vanishes:
            ratios.append(epsilon.over_gamma(t, path))
        if self.gaussian_source and isinstance(path, SpatiallyLinear):
            ratios.append(epsilon.over_alpha(t, path))
        return not any(bool(ratio.isfinite() & (ratio != 0)) for ratio in ratios)

    def _combination(self, wanted: Hashable, epsilon: Diffusion | None = None) -> Combination:
        """Return how to get a quantity, by its name, or a drift, by its diffusion and direction."""
        if wanted not in self._found:
            if epsilon is None:
                if wanted not in NAMES:
                    raise ValueError(f"a field answers with {', '.join(NAMES)}; got {wanted!r}")
                name = str(wanted)
                found = self._conversions.quantity(name)
                if found is None:
                    raise FieldUnavailable(self._missing(name))
            else:
                _, reverse = cast("tuple[int, bool]", wanted)
                found = self._conversions.drift(epsilon, reverse=reverse)
                if found is None:
                    self.require("velocity", "score")
                assert found is not None
            if len(self._found) >= _FOUND:  # A new function for every call, say.
                self._found.clear()
            self._found[wanted] = found
        return self._found[wanted]

    def _plan(
        self,
        wanted: Hashable,
        combination: Combination,
        t: Time,
        x: Tensor,
        nearest: float = 0.0,
        *,
        plain: bool = True,
    ) -> _Plan:
        """Return at which time the sources are asked for, and their weights."""
        if not x.is_floating_point():
            raise TypeError(f"x must be a floating-point tensor; got {x.dtype}")
        if plain and _is_plain(t) and not self._learnable:
            time = float(t)
            if not 0.0 <= time <= 1.0:
                raise ValueError(f"t must lie in [0, 1]; got {time}")
            grid = self._kept.get((wanted, x.dtype, nearest))
            plan = None if grid is None else grid.plan(time)
            if plan is None:
                plan = self._worked_out(combination, [time], x.dtype, nearest).plan(time)
            if plan is None:
                raise self._undetermined(wanted, f"t = {time:.6g}")
            return plan
        every = as_time(t, x)
        exact = double(every.to(x.dtype))
        at = self._times(combination, exact, x.dtype, nearest)
        weights = combination.weights(exact.reshape(-1), at.reshape(-1))
        undetermined = ~weights.isfinite().all(-1)
        if is_any(undetermined):
            first = "" if is_wrapped(exact) else f"{float(exact.reshape(-1)[undetermined][0]):.6g}"
            raise self._undetermined(wanted, f"t = {first}" if first else "some times")
        columns = weights.reshape(*exact.shape, len(combination.sources)).unbind(-1)
        return at.to(every), {
            source: column.to(x.device) for source, column in zip(combination.sources, columns, strict=True)
        }

    def _worked_out(
        self, combination: Combination, times: Sequence[float], dtype: torch.dtype, nearest: float
    ) -> _Grid:
        """Return the plans for some times."""
        # The times that a network is told, in the precision of the points.
        exact = (
            torch.tensor(times, dtype=torch.float64, device=device_of(self.interpolant)).to(dtype).double()
        )
        with torch.no_grad():
            at = self._times(combination, exact, dtype, nearest)
            weights = combination.weights(exact, at)
        places = {time: k for k, time in enumerate(times)}
        return _Grid(combination.sources, places, at.tolist(), weights.reshape(-1).tolist())

    def _times(self, combination: Combination, t: Tensor, dtype: torch.dtype, nearest: float) -> Tensor:
        """Return at which times the sources are asked for, in the precision of the points."""
        margins = combination.margins(torch.finfo(dtype).eps, keep=not self._learnable)
        first, last = (max(margin, nearest) if margin > 0 else 0.0 for margin in margins)
        return t.clamp(first, 1 - last).to(dtype).double()

    def _undetermined(self, wanted: Hashable, when: str) -> FieldUnavailable:
        title = _TITLES[wanted] if isinstance(wanted, str) else "the drift"
        return FieldUnavailable(
            f"{title} does not follow from {self._given()} on {self.interpolant} at {when}, "
            "though it does at other times"
        )

    def _carried_out(
        self,
        plans: Mapping[str, _Plan],
        x: Tensor,
        conditions: dict[str, Any],
    ) -> dict[str, Tensor]:
        # What is asked for at one time is evaluated together.
        times: list[Time] = []
        needed: list[list[str]] = []
        place: dict[str, int] = {}
        for name, (at, weights) in plans.items():
            index = next((k for k, other in enumerate(times) if _same(at, other)), len(times))
            if index == len(times):
                times.append(at)
                needed.append([])
            needed[index] += [source for source in weights if source not in (*_FREE, *needed[index])]
            place[name] = index
        known = [
            self.outputs(names, at, x, conditions) if names else {}
            for at, names in zip(times, needed, strict=True)
        ]
        return {name: _sum(weights, known[place[name]], x) for name, (_, weights) in plans.items()}

    def _missing(self, name: str) -> str:
        path = self.interpolant
        start = f"{_TITLES[name]} cannot be derived from {self._given()}"
        known = self._conversions.known
        helpful = [
            f"{more}=..."
            for more in _TITLES
            if more == name
            or Conversions(path, {**known, more: object()}, self.gaussian_source).quantity(name) is not None
        ]
        if not isinstance(path, SpatiallyLinear):
            helpful = [more for more in helpful if path.gamma.vanishes is False or more == f"{name}=..."]
            return (
                f"{start}: {type(path).__name__} is not spatially linear; "
                f"give LearnedField a network {' or '.join(helpful)}"
            )
        if name in _NO_LATENT and path.gamma.vanishes:
            return f"{start} on {path}: {_NO_LATENT[name]}"
        return f"{start} on {path}: give LearnedField also {' or '.join(helpful)}"

    def _given(self) -> str:
        return " and ".join(_TITLES[name] for name in NAMES if name in self._conversions.known)


def _drift(epsilon: Diffusion, reverse: bool) -> Hashable:
    # By identity: a diffusion of the user's may change, and need not have a hash.
    return id(epsilon), reverse


def _sum(weights: Mapping[str, float | Tensor], known: Mapping[str, Tensor], x: Tensor) -> Tensor:
    total: Tensor | None = None
    for source, weight in weights.items():
        if source == RATIO:  # That row stands for 0.
            continue
        value = x if source == POINT else known[source]
        if isinstance(weight, Tensor):
            weight = expand(weight, x)
            # A time may have a derivative where the weight is 0, so that what is finite stays.
            term = weight * torch.where((weight == 0) & value.isinf(), 0, value)
            total = term if total is None else total + term
        elif weight == 0:  # Even of what is infinite.
            continue
        elif total is None:
            total = value if weight == 1 else weight * value
        else:
            total = torch.add(total, value, alpha=weight)
    return torch.zeros_like(x) if total is None else total


def _same(t: Time, other: Time) -> bool:
    if isinstance(t, Tensor) and isinstance(other, Tensor) and t is not other:
        if is_wrapped(t) or is_wrapped(other):
            return False  # It cannot be said for all that vmap runs at once.
        return t.shape == other.shape and bool((t == other).all())
    if isinstance(t, Tensor) != isinstance(other, Tensor):
        return _is_plain(t) and _is_plain(other) and float(t) == float(other)
    return t is other or (not isinstance(t, Tensor) and t == other)


def _is_plain(t: Time) -> bool:
    """Return whether a time is one number that carries no derivative."""
    if not isinstance(t, Tensor):
        return True
    if t.ndim > 0 or t.requires_grad or torch.compiler.is_compiling() or is_wrapped(t):
        return False
    dual = forward_ad.unpack_dual(t)  # type: ignore[no-untyped-call]
    return dual.tangent is None
