"""
What latent noise smooths
=========================

Add noise in the middle of the path and none at its ends: the two densities stay as they are, and what lies
between them becomes smooth.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import Brownian, GaussianMixture, Linear, MixtureOracle, ODESampler
from interpolants.plotting import flow_figure

generator = torch.Generator().manual_seed(0)

# %%
# Two narrow modes become three. Without latent noise the six pairs of modes cross the middle as six ridges.


def narrow(*means):
    count = len(means)
    return GaussianMixture(torch.ones(count), torch.tensor(means)[:, None], torch.full((count, 1, 1), 0.01))


source, target = narrow(-1.0, 1.0), narrow(-1.6, 0.0, 1.6)
paths = {"γ = 0": Linear(), "γ² = t(1 - t) / 2": Linear(gamma=Brownian(0.5))}

# %%
# For each path: the density over time, the flow of thirty points, how steep the velocity is where the points
# are at t = 0.5, and what an adaptive solver makes of it.

times, line = torch.linspace(0, 1, 200), torch.linspace(-2.6, 2.6, 300)
x0 = source.sample(30, generator=generator)
densities, flows = [], []
for name, path in paths.items():
    oracle = MixtureOracle(path, source, target)
    densities.append(torch.stack([oracle.log_density(float(t), line[:, None]).exp() for t in times]))
    flow = ODESampler("rk4", steps=200).sample(oracle, x0)
    flows.append([(flow.t, flow.x[..., 0])])
    x = path.sample(
        0.5, source.sample(4000, generator=generator), target.sample(4000, generator=generator)
    ).xt
    x.requires_grad_()
    slope = torch.autograd.grad(oracle.velocity(0.5, x).sum(), x)[0]
    solved = ODESampler("dopri5", steps=1).sample(oracle, x0)
    print(f"{name}: root mean square slope of the velocity {slope.square().mean().sqrt():.1f}")
    print(f"    dopri5 takes {solved.evaluations} evaluations")

# %%
# The ends are the same in both rows: latent noise changes the way, not the densities that it joins. Between
# them six ridges melt into one broad density, and the paths lose their kinks.

drawing = flow_figure(densities, times, line, flows, labels=["flow"], rows=list(paths))
plt.figure(drawing)  # hands it to pyplot (Matplotlib 3.11); plotting.save writes it to a file instead
plt.show()
