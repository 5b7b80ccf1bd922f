"""
Following a particle
====================

The same equation, seen by a particle that moves with the velocity: where its neighbours drift apart, the
density about it falls, at the rate of the divergence.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import GaussianMixture, Linear, MixtureOracle, ODESampler, log_likelihood

plt.rcParams.update({"font.size": 12})
source = GaussianMixture(torch.ones(1), torch.tensor([[-0.4]]), torch.full((1, 1, 1), 0.36))
target = GaussianMixture(
    torch.tensor([0.42, 0.58]), torch.tensor([[-1.8], [1.6]]), torch.tensor([0.08, 0.12]).reshape(2, 1, 1)
)
oracle = MixtureOracle(Linear(), source, target)

# %%
# Nineteen particles start at the source's quantiles 5 %, 10 %, ..., 95 %. On a line paths cannot cross, so
# the mass between two neighbours stays 5 % and each particle ends at the same quantile of the target.

quantiles = torch.arange(0.05, 0.96, 0.05)
x0 = torch.distributions.Normal(-0.4, 0.6).icdf(quantiles).reshape(-1, 1)
flow = ODESampler("rk4", steps=200).sample(oracle, x0)
modes = torch.distributions.Normal(target.means[:, 0], target.covariances[:, 0, 0].sqrt())
reached = (modes.cdf(flow.final) * target.weights).sum(1)
print(f"largest difference from the quantiles: {(reached - quantiles).abs().max():.1e}")

# %%
# Along each path, the log density of the source less the divergence added up so far.


def divergence(t, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(oracle.velocity(t, x).sum(), x)[0][:, 0]


rates = torch.stack([divergence(t, x) for t, x in zip(flow.t, flow.x, strict=True)])
carried = source.log_prob(x0) - torch.cumulative_trapezoid(rates, flow.t, dim=0)
exact = torch.stack([oracle.log_density(t, x) for t, x in zip(flow.t, flow.x, strict=True)])
print(f"largest difference from the exact log density: {(carried - exact[1:]).abs().max():.1e}")

# %%
# The library does this in one call, backwards from points of the target.

value = log_likelihood(oracle, flow.final, source.log_prob).value
print(f"and of log_likelihood at t = 1: {(value - target.log_prob(flow.final)).abs().max():.1e}")

# %%
# Above, the density over time with the particles' paths: they crowd where it is dark. Below, three of the
# paths: the divergence (dashes) accounts for the density met on the way (broad lines).

line, times = torch.linspace(-2.8, 2.8, 300), torch.linspace(0, 1, 200)
density = torch.stack([oracle.log_density(float(t), line.reshape(-1, 1)).exp() for t in times])
figure, (top, bottom) = plt.subplots(2, figsize=(6.4, 7), sharex=True, layout="constrained")
top.imshow(density.T.numpy(), cmap="Blues", vmax=1.3, extent=(0, 1, -2.8, 2.8), origin="lower", aspect="auto")
top.plot(flow.t, flow.x[..., 0], color="0.3", linewidth=0.8)
for k, colour in ((1, "#d55e00"), (7, "#009e73"), (15, "#7a5195")):
    top.plot(flow.t, flow.x[:, k, 0], color=colour, linewidth=3)
    bottom.plot(flow.t, exact[:, k], color=colour, linewidth=5, alpha=0.45)
    bottom.plot(flow.t[1:], carried[:, k], color="black", linestyle="--", linewidth=1.2)
top.set(ylabel="position", title="density over time, and particles that follow it")
bottom.plot([], [], color="0.5", linewidth=5, alpha=0.45, label="density met on the way")
bottom.plot([], [], color="black", linestyle="--", label="density at the start, less the divergence")
bottom.legend(loc="lower left")
bottom.set(ylim=(-3.2, 0), xlabel="time", ylabel=r"$\log \rho$ at the particle", xlim=(0, 1))
plt.show()
