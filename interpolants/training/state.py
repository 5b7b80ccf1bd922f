"""Everything a training needs in order to go on, as named tensors and text."""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from interpolants.training.engine import shared_like, whole

Tensors = dict[str, Tensor]
Settings = list[dict[str, Any]]


def module_state(prefix: str, module: nn.Module) -> Tensors:
    """Return copies of all of a module's parameters and buffers, under ``prefix/name``."""
    return {f"{prefix}/{name}": _copy(value) for name, value in module.state_dict().items()}


def buffer_names(prefix: str, module: nn.Module) -> set[str]:
    """Return the names in :func:`module_state` that are of buffers."""
    return {f"{prefix}/{name}" for name, _ in module.named_buffers(remove_duplicate=False)}


def restore_module(prefix: str, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copy values into a module's own parameters and buffers.

    Raises:
        ValueError: When one is missing, left over, or of another shape.
    """
    own = module.state_dict()
    given = under(prefix, tensors)
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
    """Return copies of an optimiser's tensors, by parameter and key, and the rest as values for JSON."""
    state = optimizer.state_dict()
    tensors: Tensors = {}
    values: dict[str, Any] = {}
    for index, of_parameter in state["state"].items():
        for key, value in of_parameter.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer/{index}/{key}"] = _copy(value)
            else:
                values[f"{index}/{key}"] = value
    indices = [{"params": group["params"]} for group in state["param_groups"]]
    groups = [own | of_group for own, of_group in zip(indices, settings(optimizer), strict=True)]
    return tensors, {"values": values, "groups": groups}


def restore_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Give an optimiser the state it had; its settings (learning rate, ...) are left as they are.

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
    for name, value in under("optimizer", tensors).items():
        index, _, key = name.partition("/")
        like = parameters[int(index)]
        # A count of steps is no part of the parameter, though of the shape of one that is a single number.
        if value.shape == like.shape and key != "step":
            # Laid out as the parameter is, channels last for example: fused kernels round by the layout.
            held = torch.empty_like(like, dtype=value.dtype, requires_grad=False)
            state.setdefault(int(index), {})[key] = held.copy_(shared_like(value, like))
        else:
            state.setdefault(int(index), {})[key] = value.clone()
    for name, value in rest["values"].items():
        index, _, key = name.partition("/")
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": own["param_groups"]})
    for place, of_parameter in state.items():
        _undo_casts(optimizer.state[parameters[place]], of_parameter)


def _undo_casts(held: dict[str, Any], given: Mapping[str, Any]) -> None:
    """Torch casts what it loads to the parameter's type: no longer bit for bit what it was."""
    for key, value in given.items():
        loaded = held.get(key)
        if isinstance(value, Tensor) and isinstance(loaded, Tensor) and loaded.dtype != value.dtype:
            held[key] = value.to(loaded.device)


def settings(optimizer: torch.optim.Optimizer) -> Settings:
    """Return the settings of each group of an optimiser that are numbers, text, or lists of them."""
    groups = [
        {key: _plain(value) for key, value in group.items() if key != "params"}
        for group in optimizer.param_groups
    ]
    return [{key: value for key, value in group.items() if _is_plain(value)} for group in groups]


def restore_settings(
    optimizer: torch.optim.Optimizer, made: Settings, saved_made: Settings, saved: Settings
) -> None:
    """Give an optimiser the settings that changed in training, unless it was made with others than then.

    So an optimiser that counts in its settings goes on, and a learning rate given anew is the one used.

    Args:
        optimizer: The optimiser.
        made: The settings with which it was made.
        saved_made: Those with which the one before was made.
        saved: Those that it had in the end.
    """
    absent = object()
    for group, new, old, last in zip(optimizer.param_groups, made, saved_made, saved, strict=True):
        for key, value in last.items():
            before = old.get(key, absent)
            if key != "params" and value != before and new.get(key, absent) == before:
                group[key] = _in_the_form_of(group.get(key), value)


def check_finite(tensors: Mapping[str, Tensor], buffers: Container[str] = ()) -> None:
    """Raise unless every number is finite; in a buffer, such as a mask, infinities are allowed.

    Raises:
        ValueError: When one is not, with the name of its tensor.
    """
    for name, value in tensors.items():
        if name.startswith("random/") or not (value.is_floating_point() or value.is_complex()):
            continue
        if value.isnan().any() or (name not in buffers and value.isinf().any()):
            raise ValueError(f"{name} holds a NaN or an infinity: this state is not worth keeping")


def to_json(value: Any) -> str:
    """Return JSON text that :func:`json.loads` turns back into the same numbers.

    Raises:
        TypeError: When something in it is no number, text, list or mapping.
    """
    try:
        return json.dumps(value, allow_nan=True)
    except TypeError as error:
        raise TypeError(
            "the state of batches, and that of an optimiser beside its tensors, must consist of numbers, "
            f"texts, lists and mappings; got one with more: {error}"
        ) from error


def under(prefix: str, tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors under ``prefix/name``, by name."""
    start = prefix + "/"
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def _copy(value: Tensor) -> Tensor:
    """Return all of a tensor on the host, where it stays as it is when the training goes on."""
    return whole(value.detach()).to("cpu", copy=True)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value.tolist() if isinstance(value, Tensor) else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _in_the_form_of(held: Any, value: Any) -> Any:
    if isinstance(held, Tensor):
        return torch.tensor(value, dtype=held.dtype, device=held.device)
    return tuple(value) if isinstance(held, tuple) else value
