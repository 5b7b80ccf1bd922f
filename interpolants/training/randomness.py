"""The states of the generators a program shares: torch's, NumPy's and Python's own."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class GlobalStates(NamedTuple):
    """The states of the global generators of the CPU, as each of them gives its own."""

    torch: Tensor
    python: Any
    numpy: Any

    @classmethod
    def now(cls) -> GlobalStates:
        """Return the present states."""
        return cls(torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True))  # noqa: NPY002 - it is there

    def tensors(self) -> dict[str, Tensor]:
        """Return them as tensors."""
        _, words, gauss = self.python
        _, keys, position, has_gauss, cached = self.numpy
        return {
            "torch": self.torch,
            "python": torch.tensor(words),
            "python_gauss": torch.tensor([gauss is not None, gauss or 0.0], dtype=torch.float64),
            "numpy": torch.from_numpy(np.asarray(keys, dtype=np.int64).copy()),
            "numpy_place": torch.tensor([position, has_gauss]),
            "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
        }


def global_states(device: torch.device) -> dict[str, Tensor]:
    """Return the states of the global generators as tensors: torch's on CPU and device, NumPy's, Python's."""
    states = GlobalStates.now().tensors()
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_global_states(states: dict[str, Tensor], device: torch.device) -> None:
    """Set the global generators to the states that :func:`global_states` returned."""
    torch.set_rng_state(states["torch"])
    has, gauss = states["python_gauss"].tolist()
    random.setstate((3, tuple(states["python"].tolist()), gauss if has else None))
    position, has_gauss = states["numpy_place"].tolist()
    keys = states["numpy"].numpy().astype(np.uint32)
    cached = states["numpy_gauss"].item()
    np.random.set_state(("MT19937", keys, position, has_gauss, cached))  # noqa: NPY002 - it is there
    if "cuda" in states and device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
