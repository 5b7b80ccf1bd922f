r"""Couplings: which source point is paired with which target point.

A coupling reorders a minibatch of independent draws. It keeps the order of the targets and moves the
sources, so whatever belongs to the targets (labels, conditions) stays where it is; the indices it
returns carry along whatever belongs to the sources.
"""

from __future__ import annotations

import abc
import importlib
import importlib.util
import warnings
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor
from typing_extensions import override

from interpolants._tensors import check_alike


@dataclass(frozen=True, eq=False)
class Pairs:
    """A coupled minibatch: row k of everything belongs together.

    Attributes:
        x0: Source points, shape ``(B, *D)``.
        x1: Target points, shape ``(B, *D)``.
        source_index: Row of the given ``x0`` that stands in each row, shape ``(B,)``.
        target_index: Row of the given ``x1`` that stands in each row, shape ``(B,)``.
        with_source: The extra tensors given as belonging to ``x0``, in their new order.
        with_target: The extra tensors given as belonging to ``x1``, in their new order.
    """

    x0: Tensor
    x1: Tensor
    source_index: Tensor
    target_index: Tensor
    with_source: tuple[Tensor, ...] = ()
    with_target: tuple[Tensor, ...] = ()


class Coupling(abc.ABC):
    """How the points of two minibatches are paired.

    A subclass writes :meth:`source_index`.

    Example:
        >>> class Reversed(Coupling):
        ...     def source_index(self, x0, x1, *, generator=None):
        ...         return torch.arange(len(x0) - 1, -1, -1)
        >>> Reversed().pair(torch.tensor([[0.0], [1.0]]), torch.zeros(2, 1)).x0
        tensor([[1.],
                [0.]])
    """

    @abc.abstractmethod
    def source_index(
        self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Return which row of ``x0`` goes to each row of ``x1``: a permutation, shape ``(B,)``.

        None stands for the order given. All randomness comes from ``generator``.
        """

    def pair(
        self,
        x0: Tensor,
        x1: Tensor,
        *,
        with_source: tuple[Tensor, ...] = (),
        with_target: tuple[Tensor, ...] = (),
        generator: torch.Generator | None = None,
    ) -> Pairs:
        """Return the minibatch with its rows paired.

        Args:
            x0: Source points, shape ``(B, *D)``.
            x1: Target points, shape ``(B, *D)``.
            with_source: Tensors of ``B`` rows that belong to ``x0`` and move with it.
            with_target: Tensors of ``B`` rows that belong to ``x1``.
            generator: Where a random coupling draws from.

        Raises:
            TypeError: When dtypes differ or are not floating.
            ValueError: When shapes or devices differ, or an extra tensor has another number of rows.
        """
        check_alike(x0, x1)
        for extra in (*with_source, *with_target):
            if extra.shape[:1] != x0.shape[:1]:
                raise ValueError(
                    f"extra tensors need {x0.shape[0]} rows like x0; got shape {tuple(extra.shape)}"
                )
        index = self.source_index(x0, x1, generator=generator)
        order = torch.arange(x0.shape[0], device=x0.device)
        if index is None:
            return Pairs(x0, x1, order, order, with_source, with_target)
        index = index.to(x0.device)
        return Pairs(x0[index], x1, index, order, tuple(extra[index] for extra in with_source), with_target)


@final
@dataclass(frozen=True)
class Independent(Coupling):
    """Rows as they come: independent when the batches are, data-dependent when they are pairs.

    Example:
        >>> x0, x1 = torch.zeros(2, 1), torch.ones(2, 1)
        >>> Independent().pair(x0, x1).x0 is x0
        True
    """

    @override
    def source_index(self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None) -> None:
        return None


@final
@dataclass(frozen=True)
class OptimalTransport(Coupling):
    r"""The pairing with the least total :math:`|x_1 - x_0|^2` over the minibatch.

    Exact, by an assignment solver: a permutation, so every point is kept (drawing from the plan with
    replacement loses about 37 % of them). Deterministic, and computed on the CPU in double precision; the
    cost grows like the third power of the batch size. Pooladian et al. 2023 (arXiv 2304.14772), Tong et al.
    2023 (arXiv 2302.00482).

    From 192 rows on, the solver starts from potentials that small parts of the minibatch agree on. That
    changes the time and not the optimum: of several best pairings, which may tie, it may be another one.
    Beside far outliers it starts from nothing, whatever ``solver`` says.

    Args:
        solver: ``"scipy"`` for its shortest augmenting paths, or ``"pot"`` for the network simplex of POT
            (``pip install 'interpolants[transport]'``), which is faster for thousands of points in up to
            three dimensions. None for POT for such points where it is
            installed, else scipy.

    Raises:
        ValueError: When ``solver`` is none of these; from :meth:`~interpolants.Coupling.pair`, when a
            point is not finite.
        ImportError: From :meth:`~interpolants.Coupling.pair`, when POT is asked for and not installed.

    Example:
        >>> x0, x1 = torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [1.0]])
        >>> OptimalTransport().pair(x0, x1).x0
        tensor([[5.],
                [0.]])
    """

    solver: str | None = None

    def __post_init__(self) -> None:
        if self.solver not in (None, "scipy", "pot"):
            raise ValueError(f"solver must be None, 'scipy' or 'pot'; got {self.solver!r}")

    @override
    def source_index(self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        sources, targets = (x.detach().reshape(len(x), x[:1].numel()).double().cpu() for x in (x0, x1))
        few = len(x0) < _FEW_ROWS
        cost = _squares(sources, targets, by_differences=few or x0.dtype == torch.float64)
        if not torch.isfinite(cost).all():
            raise ValueError(
                "optimal transport needs finite points; x0 or x1 holds inf or nan, or numbers "
                "too large to be squared"
            )
        if not few and not _are_comparable(cost):
            return _assignment(_squares(sources, targets, by_differences=True)).to(x0.device)
        solver = _faster(*sources.shape) if self.solver is None else self.solver
        solve = _network_simplex if solver == "pot" else _assignment
        return solve(cost if few else _reduced(cost)).to(x0.device)


# By measurement, one thread: from here on the potentials cost less than they save.
_FEW_ROWS = 192

# How often a pair of potentials is improved. They need not be best, and more sweeps cost more than they save.
_SWEEPS = 8


def _squares(sources: Tensor, targets: Tensor, *, by_differences: bool) -> Tensor:
    """Return the squared distances, one row for each target."""
    if by_differences or sources.shape[1] <= 16:
        return torch.cdist(targets, sources, compute_mode="donot_use_mm_for_euclid_dist").square_()
    # One matrix product, ten times as fast at 784 elements a row. What its cancellation loses in double
    # precision is less than points of single precision, whose mean is taken off, have been rounded by.
    centre = (sources.mean(dim=0) + targets.mean(dim=0)) / 2
    sources, targets = sources - centre, targets - centre
    sizes = targets.square().sum(dim=1, keepdim=True) + sources.square().sum(dim=1)
    return torch.addmm(sizes, targets, sources.T, alpha=-2)


# A cost that is so many times a usual one would leave rounding in the usual ones, were it cancelled.
_LARGEST = 1e9


def _are_comparable(cost: Tensor) -> bool:
    """Return whether potentials as large as the largest cost leave the others exact."""
    usual = cost.amin(dim=1).median()
    usual = usual if usual > 0 else cost.median()
    return bool(cost.max() <= _LARGEST * usual)


def _faster(rows: int, elements: int) -> str:
    """Return the solver to take: measured at 256 to 4,096 rows of 1 to 784 elements."""
    few_elements = rows >= 2048 and elements <= 3
    return "pot" if few_elements and importlib.util.find_spec("ot") is not None else "scipy"


def _reduced(cost: Tensor) -> Tensor:
    """Take a number for each row and each column off the cost, in place, for zeros in many places.

    Whatever these potentials are, all permutations change by the same amount, so the best one stays. Near
    the best potentials the solver's searches are short. Here they are the mean of those of some small parts
    of the minibatch, each part's optimal transport being solved and extended to all columns.
    """
    parts = min(16, len(cost) // 64)
    potential = torch.zeros_like(cost[0])
    for k in range(parts):
        # Rows at equal distances: neighbours in a sorted batch would make parts unlike the whole.
        rows = cost[k::parts][: len(cost) // parts]
        own = _row_potential(rows[:, k::parts][:, : len(rows)])
        potential += (rows - own[:, None]).amin(dim=0) / parts
    cost -= potential
    cost -= cost.amin(dim=1, keepdim=True)
    return cost.sub_(cost.amin(dim=0))


def _row_potential(cost: Tensor) -> Tensor:
    """Return potentials of the rows that are nearly optimal for a small problem: midway in their range."""
    matched = cost[:, _assignment(cost)]
    own = matched.diagonal()
    excess = matched - own[:, None]
    highest = lowest = torch.zeros_like(own)
    for _ in range(_SWEEPS):
        highest = (excess + highest[:, None]).amin(dim=0)
        lowest = (lowest - excess).amax(dim=1)
    return own - (highest + lowest) / 2


def _assignment(cost: Tensor) -> Tensor:
    """Return the best column for each row: a permutation."""
    from scipy.optimize import linear_sum_assignment

    return torch.from_numpy(linear_sum_assignment(cost.numpy())[1])


def _network_simplex(cost: Tensor) -> Tensor:
    """Return the best column for each row, which scipy finds at once from the potentials that POT ends with.

    POT's own plan is exact to its tolerance only, some 1e-14 of the largest cost, or not at all when its
    search is given up. No potentials can mislead scipy, so neither matters.
    """
    if len(cost) == 0:  # POT ends the process over an empty problem.
        return _assignment(cost)
    try:
        # It brings in those of torch, jax, cupy, tensorflow and sklearn that are there, in about a second.
        # Its environment variables against that are left alone: they would hold for the user's own POT too.
        ot = importlib.import_module("ot")
    except ImportError as error:
        raise ImportError("the solver 'pot' needs POT: pip install 'interpolants[transport]'") from error
    ones = torch.ones(len(cost), dtype=torch.float64).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # That the search was given up, at worst.
        _, log = ot.emd(ones, ones, cost.numpy(), numItermax=_MOST_PIVOTS, log=True, center_dual=False)
    return _assignment(cost.sub_(torch.from_numpy(log["u"])[:, None]).sub_(torch.from_numpy(log["v"])))


# POT's own limit, 100,000, is passed by 2,048 points of 784 elements.
_MOST_PIVOTS = 10**9
