"""The benchmarks of the suite, by name; each is imported when it is run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from benchmarks.record import Result
from benchmarks.settings import Settings


@dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
        name: What it is run by.
        group: accuracy or speed.
        module: Where its function ``run`` is.
        summary: One line for the list.
    """

    name: str
    group: str
    module: str
    summary: str

    def run(self, settings: Settings) -> Result:
        """Return what it found."""
        function = importlib.import_module(f"benchmarks.{self.group}.{self.module}").run
        return cast("Callable[[Settings], Result]", function)(settings)


CATALOGUE = {
    name: Benchmark(name, group, module, summary)
    for group, name, module, summary in (
        ("accuracy", "exact", "exact", "every path, latent noise and sampler against exact fields"),
        ("accuracy", "divergence", "divergence", "KL divergence against epsilon, by likelihood, d = 128"),
        ("accuracy", "losses", "losses", "losses, antithetic pairs and time laws against the exact field"),
        ("accuracy", "moons", "moons", "eight Gaussians to moons, the protocol of C2OT's Figure 1"),
        ("accuracy", "moons_short", "moons_short", "the same for all paths and the peers, trained briefly"),
        ("accuracy", "plane", "plane", "2-D sets with path energy, the protocol of OT-CFM's Table 2"),
        ("accuracy", "density", "density", "the checkerboard's negative log-likelihood and its floor, ln 32"),
        ("accuracy", "images", "images", "digits and glyphs: Fréchet distance against evaluations"),
        ("speed", "training_step", "training", "a training step of a 2-D MLP"),
        ("speed", "unet", "unet", "a training step and a sampling step of an image U-Net"),
        ("speed", "ode", "ode", "ODE sampling: Euler at two batch sizes, dopri5"),
        ("speed", "sde", "sde", "Euler-Maruyama steps"),
        ("speed", "likelihood", "likelihood", "exact log-likelihood, d = 2 and 64"),
        ("speed", "transport", "transport", "minibatch optimal transport, 256 to 4,096 points"),
        ("speed", "import_time", "imports", "time to import"),
    )
}
