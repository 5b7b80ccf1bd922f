"""Eight Gaussians to moons as in :mod:`.moons`, trained briefly: all paths and the peers, alike."""

from __future__ import annotations

from benchmarks.accuracy.moons import Sizes, shorter
from benchmarks.record import Result
from benchmarks.settings import Settings


def run(settings: Settings) -> Result:
    """Return the table, and the figure of the distance against Euler steps."""
    sizes = settings.pick(
        Sizes(20, 2, 128, 2_000), Sizes(200, 10, 500, 20_000), Sizes(600, 50, 1_000, 50_000)
    )
    table, plot = shorter(settings, sizes)
    return Result([table], [plot], {"shorter": vars(sizes)})
