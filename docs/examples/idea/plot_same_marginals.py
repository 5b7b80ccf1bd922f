"""
Same densities, different paths
===============================

With velocity and score, noise can be added while sampling and taken back by the drift. How much is a free
choice.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import Brownian, Constant, GaussianMixture, Linear, MixtureOracle, SDESampler
from interpolants.plotting import flow_figure

generator = torch.Generator().manual_seed(0)
source = GaussianMixture(torch.ones(1), torch.tensor([[-0.4]]), torch.full((1, 1, 1), 0.36))
target = GaussianMixture(
    torch.tensor([0.42, 0.58]), torch.tensor([[-1.8], [1.6]]), torch.tensor([0.08, 0.12]).reshape(2, 1, 1)
)
oracle = MixtureOracle(Linear(gamma=Brownian(0.5)), source, target)

# %%
# Ten thousand points, carried with three diffusions; epsilon = 0 is the ODE. The densities are counted
# from the points, not taken from the oracle.

count, steps = 10_000, 200
x0 = source.sample(count, generator=generator)
edges = torch.linspace(-3, 3, 76)
centres, width = (edges[1:] + edges[:-1]) / 2, 0.08
modes = torch.distributions.Normal(target.means[:, 0], target.covariances[:, 0, 0].sqrt())
densities, paths, names = [], [], []
for epsilon in (0.0, 0.2, 2.0):
    run = SDESampler(Constant(epsilon), steps=steps).sample(oracle, x0, generator=generator)
    densities.append(torch.stack([torch.histogram(x[:, 0], edges).hist for x in run.x]) / (count * width))
    paths.append([(run.t, run.x[:, :12, 0])])
    names.append(rf"$\epsilon = {epsilon:g}$")
    ends = run.final[:, 0].sort().values
    exact = (modes.cdf(ends[:, None]) * target.weights).sum(1)
    gap = (exact - (torch.arange(count) + 0.5) / count).abs().max() + 0.5 / count
    print(
        f"epsilon = {epsilon:3.1f}: largest gap between its distribution at t = 1 and the target's {gap:.4f}"
    )

print(f"as many fresh points of the target exceed {1.63 / count**0.5:.4f} once in a hundred times")

# %%
# Left, the same density three times; right, twelve paths that fill it, coloured by their start. The ODE's
# are smooth and keep their order. Noise makes them mix: with the largest epsilon a path forgets where it
# began.

drawing = flow_figure(densities, run.t, centres, paths, labels=["paths"], rows=names)
plt.figure(drawing)  # hands it to pyplot (Matplotlib 3.11); plotting.save writes it to a file instead
plt.show()
