"""Draw the layers of the library from its import contract, the one that `make check` enforces."""

from __future__ import annotations

import tomllib
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WIDTH, ROW, GAP, PAD = 760, 46, 12, 8
# What each module is about, in a few words; a module without a line here stops the build.
WORDS = {
    "__main__": "python -m",
    "cli": "commands",
    "config": "names → objects",
    "training": "steps",
    "samplers": "ODE, SDE",
    "oracles": "exact fields",
    "networks": "(t, x) → x",
    "data": "sets",
    "metrics": "distances",
    "plotting": "pictures",
    "checks": "promises",
    "losses": "what to learn",
    "fields": "what was learned",
    "families": "Linear, Trigonometric, …",
    "interpolant": "the abstract path",
    "couplings": "who meets whom",
    "gammas": "latent noise",
    "_tensors": "time, shapes, derivatives",
}
COLOURS = ("#dbe9f6", "#fde3cf", "#dcefdc", "#ece3f3")


def layers() -> list[list[str]]:
    """Return the rows of the contract, the outermost first."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contract = next(c for c in tools["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip() for name in row.split("|")] for row in contract["layers"]]


def picture(rows: list[list[str]]) -> str:
    """Return the picture as SVG, readable on light and on dark pages."""
    height = len(rows) * (ROW + GAP) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="sans-serif" text-anchor="middle">',
        f'<rect width="{WIDTH}" height="{height}" rx="10" fill="#ffffff"/>',
    ]
    for k, row in enumerate(rows):
        top = GAP + k * (ROW + GAP)
        width = (WIDTH - 2 * GAP - (len(row) - 1) * PAD) / len(row)
        for j, name in enumerate(row):
            left = GAP + j * (width + PAD)
            middle = left + width / 2
            size = 15 if len(row) < 4 else 13
            parts += [
                f'<rect x="{left:.1f}" y="{top}" width="{width:.1f}" height="{ROW}" rx="6" '
                f'fill="{COLOURS[k % len(COLOURS)]}"/>',
                f'<text x="{middle:.1f}" y="{top + 20}" font-size="{size}" font-weight="bold" '
                f'fill="#1a1a1a">{escape(name)}</text>',
                f'<text x="{middle:.1f}" y="{top + 37}" font-size="{size - 2}" '
                f'fill="#444444">{escape(WORDS[name])}</text>',
            ]
    return "\n".join([*parts, "</svg>", ""])


def write(folder: Path) -> None:
    """Write ``layers.svg`` into a folder, unless it is there: what watches the folder would build again."""
    drawn, file = picture(layers()), folder / "layers.svg"
    if not file.exists() or file.read_text(encoding="utf-8") != drawn:
        file.write_text(drawn, encoding="utf-8")


if __name__ == "__main__":
    write(Path(__file__).parent / "extending")
