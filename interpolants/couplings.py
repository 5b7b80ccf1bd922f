r"""Couplings: which source point is paired with which target point.

A coupling reorders a minibatch of independent draws. It keeps the order of the targets and moves the
sources, so whatever belongs to the targets (labels, conditions) stays where it is; the indices it
returns carry along whatever belongs to the sources.
"""

from __future__ import annotations

import abc
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

    Exact, by scipy's assignment solver: a permutation, so every point is kept (drawing from the plan
    with replacement loses about 37 % of them). Deterministic, and computed on the CPU in double
    precision; the cost grows like the third power of the batch size. Pooladian et al. 2023
    (arXiv 2304.14772), Tong et al. 2023 (arXiv 2302.00482).

    Example:
        >>> x0, x1 = torch.tensor([[0.0], [5.0]]), torch.tensor([[6.0], [1.0]])
        >>> OptimalTransport().pair(x0, x1).x0
        tensor([[5.],
                [0.]])
    """

    @override
    def source_index(self, x0: Tensor, x1: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        from scipy.optimize import linear_sum_assignment

        sources, targets = (x.detach().reshape(len(x), x[:1].numel()).double().cpu() for x in (x0, x1))
        cost = torch.cdist(targets, sources, compute_mode="donot_use_mm_for_euclid_dist").square()
        if not torch.isfinite(cost).all():
            raise ValueError("optimal transport needs finite points; x0 or x1 holds inf or nan")
        _, columns = linear_sum_assignment(cost.numpy())
        return torch.from_numpy(columns).to(x0.device)
