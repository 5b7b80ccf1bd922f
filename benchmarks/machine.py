"""What every result is printed with: machine, versions, commit, command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    "interpolants",
    "torchdiffeq",
    "torchsde",
    "numpy",
    "scipy",
    "POT",
    "torchcfm",
    "flow-matching",
    "azula",
)


def description(command: str | None = None, device: torch.device | None = None) -> dict[str, Any]:
    """Return what a reader needs to judge a number or to get it again."""
    called = f"python -m benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".strip()
    about = {
        "command": called if command is None else command,
        "date": date.today().isoformat(),
        "commit": commit(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if device is not None:
        about["device"] = device.type
        about["gpu"] = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        about["versions"] = {name: version for name in PACKAGES if (version := _version(name))}
    return about


def commit() -> str | None:
    """Return the commit of the tree, with a "+" when the code differs from it; None without git."""
    root = Path(__file__).parent.parent
    try:
        name = subprocess.run(
            ["git", "rev-parse", "--short=10", "HEAD"], cwd=root, capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--", "interpolants", "benchmarks/*.py"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return name + ("+" if changed else "")


def save(name: str, figures: dict[str, Any]) -> Path:
    """Write the figures of one of the longer studies, which are run by themselves."""
    return write(RESULTS / f"{name}.json", {**description(), **figures})


def write(path: Path, content: dict[str, Any]) -> Path:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json.part")
    beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
    beside.replace(path)
    return path


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
