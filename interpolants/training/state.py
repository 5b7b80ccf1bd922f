"""Everything a training needs in order to go on, as named tensors and text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interpolants.training.engine import shared_like, whole

Tensors = dict[str, Tensor]


def module_state(prefix: str, module: nn.Module) -> Tensors:
    """Return all of a module's parameters and buffers, under ``prefix/name``."""
    return {f"{prefix}/{name}": whole(value) for name, value in module.state_dict().items()}


def restore_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into a module's own parameters and buffers.

    Raises:
        ValueError: When one is missing, left over, or of another shape.
    """
    own = module.state_dict()
    given = _under(prefix, tensors)
    if own.keys() != given.keys():
        odd = sorted(own.keys() ^ given.keys())
        raise ValueError(f"the checkpoint is of another network: {odd[0]} is in one of them only")
    for name, value in own.items():
        if given[name].shape != value.shape:
            raise ValueError(
                f"the checkpoint is of another network: {name} has shape {tuple(given[name].shape)} in it, "
                f"here {tuple(value.shape)}"
            )
        with torch.no_grad():
            value.copy_(shared_like(given[name], value))


def optimizer_state(optimizer: torch.optim.Optimizer) -> tuple[Tensors, dict[str, Any]]:
    """Return an optimiser's tensors, by parameter and key, and the rest as values for JSON."""
    state = optimizer.state_dict()
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for index, of_parameter in state["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = whole(value)
            else:
                values[f"{index}/{key}"] = value
    return tensors, {"values": values, "groups": [_plain(group) for group in state["param_groups"]]}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Give an optimiser the state it had; its settings (learning rate, ...) stay those it was made with.

    Raises:
        ValueError: When it belongs to other parameters.
    """
    own = optimizer.state_dict()
    sizes = [len(group["params"]) for group in own["param_groups"]]
    saved = [len(group["params"]) for group in rest["groups"]]
    if sizes != saved:
        raise ValueError(
            f"the checkpoint's optimiser has groups of {saved} parameters, this one of {sizes}: was it "
            "compiled then and is not now, or the reverse?"
        )
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Any]] = {}
    for name, value in _under("optimizer", tensors).items():
        index, _, key = name.partition("/")
        like = parameters[int(index)]
        shared = shared_like(value, like) if value.shape == like.shape else value
        state.setdefault(int(index), {})[key] = shared
    for name, value in rest["values"].items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Raise unless every number is finite.

    Raises:
        ValueError: When one is not, with the name of its tensor.
    """
    for name, value in tensors.items():
        if value.is_floating_point() and not name.startswith("random/") and not value.isfinite().all():
            raise ValueError(f"{name} holds a NaN or an infinity: this state is not worth keeping")


def to_json(value: Any) -> str:
    """Return JSON text that :func:`json.loads` turns back into the same numbers."""
    return json.dumps(value, allow_nan=True)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _plain(group: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
        for key, value in group.items()
        if isinstance(value, Tensor | bool | int | float | str | list | tuple | None)
    }
