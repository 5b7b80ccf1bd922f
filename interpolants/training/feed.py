"""The minibatches of a training: taken one after another, and found again after a stop."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from interpolants.training.randomness import GlobalStates, restore_global_states

Batch = tuple[Any, ...]


class Feed:
    """Minibatches, begun again when they run out.

    Args:
        batches: The minibatches; with ``state_dict`` and ``load_state_dict`` they know where they are.
        generator: The generator of the training, which they may share.

    Example:
        >>> feed = Feed([("a",), ("b",)], None)
        >>> [feed.take()[0] for _ in range(3)], feed.taken, feed.begun
        (['a', 'b', 'a'], 3, 2)
    """

    def __init__(self, batches: Iterable[Batch], generator: torch.Generator | None) -> None:
        self._batches = batches
        self._generator = generator
        self._iterator: Iterator[Batch] | None = None
        self._knows_its_place = hasattr(batches, "state_dict")
        # A loader that shuffles draws its order when it is begun.
        self._may_draw = not (self._knows_its_place or isinstance(batches, list | tuple | Iterator))
        self._beginning: tuple[GlobalStates, Tensor | None] | None = None
        # While those already taken are gone through: which beginning is the last, and from what numbers.
        self._last_beginning: tuple[int, dict[str, Tensor], Tensor | None] | None = None
        self.taken = 0
        self.begun = 0

    def take(self) -> Batch:
        """Return the next minibatch.

        Raises:
            ValueError: When there is none, though begun again.
        """
        for _ in range(2):
            if self._iterator is None:
                self._begin()
            assert self._iterator is not None
            for batch in self._iterator:
                self.taken += 1
                return batch
            self._iterator = None
        raise ValueError("batches gave no minibatch: they are empty, or an iterator that has run out")

    def state(self) -> dict[str, Any]:
        """Return where the minibatches are, as values for JSON."""
        if self._knows_its_place:  # Then how often they were begun is no part of where they are.
            own = self._batches.state_dict()  # type: ignore[attr-defined]
            return {"batches": own, "taken": self.taken, "begun": 0}
        return {"batches": None, "taken": self.taken, "begun": self.begun}

    def beginning(self) -> tuple[dict[str, Tensor], Tensor | None]:
        """Return the states of the global generators, and of the training's, when they were last begun."""
        if self._beginning is None:
            return {}, None
        states, own = self._beginning
        return states.tensors(), own

    def restore(self, state: Mapping[str, Any], states: dict[str, Tensor], own: Tensor | None) -> None:
        """Go to where the minibatches were, if need be by going through those already taken.

        Args:
            state: From :meth:`state`.
            states: The global generators' states from :meth:`beginning`; empty when they are not known.
            own: The state of the training's generator from :meth:`beginning`.
        """
        if self._knows_its_place and state["batches"] is not None:
            self._iterator, self.taken, self.begun = None, state["taken"], state["begun"]
            self._batches.load_state_dict(state["batches"])  # type: ignore[attr-defined]
        elif not isinstance(self._batches, Iterator):
            self._iterator, self.taken, self.begun = None, 0, 0
        elif self.taken > state["taken"]:
            warnings.warn("batches are an iterator, which cannot go back: it goes on", stacklevel=4)
        self._last_beginning = (state["begun"], states, own)
        while self.taken < state["taken"]:
            self.take()
        self._last_beginning = None

    def _begin(self) -> None:
        self.begun += 1
        if self._last_beginning is not None and self._last_beginning[0] == self.begun:
            _, states, own = self._last_beginning
            if states:
                restore_global_states(states, torch.device("cpu"))
            if own is not None and self._generator is not None:
                self._generator.set_state(own)
        if self._may_draw:
            own = None if self._generator is None else self._generator.get_state()
            self._beginning = GlobalStates.now(), own
        self._iterator = iter(self._batches)
