"""The digits at the default budget beside other settings at four times that.

Trains each setting with ``interpolants train digits`` (a run that is there already is finished, or left as it
is) and measures it with ``interpolants evaluate`` (unless that was done, with as many): Fréchet distance
on the features of a classifier of the digits, the floor (real against real) and the share of copies.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import save

# Four times the steps, or a network four times as slow in as many steps.
SETTINGS = {
    "default": "",
    "4 times the steps": "--steps 12000 --averages 0.999 --checkpoint-every 2000 --picture-every 2000",
    "4 times the steps, dropout 0.1": "--steps 12000 --averages 0.999 --dropout 0.1 --checkpoint-every 2000 "
    "--picture-every 2000",
    "twice the width": "--width 64",
}

COMPARED = ("frechet", "precision", "recall", "density", "coverage", "sliced_wasserstein2")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/benchmark-digits"), help="where the runs are"
    )
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=SETTINGS, help="which")
    parser.add_argument("--n", type=int, default=10_000, help="images to draw for the figures")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/digits.json")
    options = parser.parse_args()
    torch.set_num_threads(1)  # As the runs, whose default it is.
    rows = {name: measured(name, options.folder, options.n) for name in options.settings}
    for name, row in rows.items():
        few, held_out = row["frechet"], row["held_out"]
        print(
            f"{name:32} {row['seconds']:6.0f} s  Frechet {row['frechet_all']['value']:.3f} of {options.n:,}, "
            f"{few['generated']['value']:.3f} ± {few['generated']['standard_error']:.3f} of {held_out} "
            f"(real: {few['floor']['value']:.3f} ± {few['floor']['standard_error']:.3f}), "
            f"copies {row['copies']['share']:.4f} (real: {row['copies']['expected']:.4f})"
        )
    if options.save:
        print(save("digits", {"n": options.n, "rows": rows}))


def measured(name: str, folder: Path, n: int) -> dict[str, Any]:
    run = folder / name.replace(" ", "-").replace(",", "")
    interpolants("train", "digits", *SETTINGS[name].split(), "--out", str(run), "--resume")
    evaluation = run / "evaluation.json"
    if not evaluation.is_file() or json.loads(evaluation.read_text())["frechet_all"]["generated"]["n"] != n:
        interpolants("evaluate", str(run), "--number", str(n))
    figures = json.loads(evaluation.read_text())
    return {
        "options": SETTINGS[name],
        "seconds": json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"],
        "held_out": figures["frechet"]["floor"]["n"],
        "frechet_all": figures["frechet_all"]["generated"],
        **{name: {end: figures[name][end] for end in ("generated", "floor")} for name in COMPARED},
        "copies": figures["copies"],
    }


def interpolants(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "interpolants", *arguments], check=True)


if __name__ == "__main__":
    main()
