"""The peers that the suite can run beside: each from its own package, behind an adapter of a few lines.

A peer takes part where it has the task. What is not installed is reported in the table, and nothing fails.
"""

from __future__ import annotations

import importlib.util

PEERS = {
    "torchcfm": "torchcfm",
    "flow_matching": "flow_matching",
    "azula": "azula",
}
"""Names for --compare, with the package that each needs."""


def installed(name: str) -> bool:
    """Return whether a peer's package is there, without importing it."""
    return importlib.util.find_spec(PEERS[name]) is not None


def absence(name: str) -> str:
    """Return what a table says in place of a number."""
    return f"{name} is not installed"
