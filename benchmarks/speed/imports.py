"""What `import interpolants` costs over `import torch`; each import runs in a fresh interpreter."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from functools import partial

import torch

from benchmarks.record import NOISE, OURS, PEER, Result, Table, missing
from benchmarks.settings import Settings
from benchmarks.timing import AGAIN, interleaved

BASE = "import torch"
PEERS = {
    "torchdiffeq": "torchdiffeq",
    "torchsde": "torchsde",
    "flow_matching": "flow_matching.path, flow_matching.solver",  # By itself it imports nothing.
    "torchcfm": "torchcfm",
    "azula": "azula.noise, azula.sample",
}


def run(settings: Settings) -> Result:
    """Return the table of imports."""
    imported = {"torch": "torch", "interpolants": "interpolants"}
    imported |= {name: module for name, module in PEERS.items() if _is_there(name)}
    works = {f"import {name}": partial(_import, f"import {module}") for name, module in imported.items()}
    rounds = settings.rounds or settings.pick(1, 5, 15)
    times = interleaved(works, rounds=rounds, device=torch.device("cpu"), block_seconds=0, warm_up=1)
    table = Table("import_time", "Time to import, as a ratio to `import torch`", ["ratio"])
    table.add(BASE, {"ratio": times.cell(BASE)}, NOISE)
    table.add(BASE + AGAIN, {"ratio": times.cell(BASE + AGAIN)}, NOISE)
    for name in ("interpolants", *PEERS):
        label, kind = f"import {name}", OURS if name == "interpolants" else PEER
        cell = times.cell(label) if label in works else missing(f"{name} is not installed")
        table.add(label, {"ratio": cell}, kind)
    return Result([table])


def _import(statement: str) -> None:
    subprocess.run([sys.executable, "-c", statement], check=True, capture_output=True)


def _is_there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None
