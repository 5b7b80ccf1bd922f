"""
A random chain becomes a path
=============================

Draw a pair that could have made the point, step a little along it, and draw again. With few steps the chain
is random; as the steps shrink, all chains from one start go the same way.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import GaussianMixture, Linear, MixtureOracle, ODESampler, deblending_chain

plt.rcParams.update({"font.size": 12})
generator = torch.Generator().manual_seed(0)
source = GaussianMixture(torch.ones(1), torch.tensor([[-1.8, 0.0]]), 0.12 * torch.eye(2)[None])
target = GaussianMixture(
    torch.ones(2), torch.tensor([[1.8, -0.9], [1.8, 0.9]]), 0.06 * torch.eye(2).repeat(2, 1, 1)
)
oracle = MixtureOracle(Linear(), source, target)

# %%
# Three starts, thirty chains from each, in 4, 32 and 256 steps.

starts, repeats = torch.tensor([[-1.9, -0.6], [-1.6, 0.15], [-2.0, 0.6]]), 30
chains = []
for steps in (4, 32, 256):
    chain = deblending_chain(
        oracle.interpolant,
        oracle.posterior_sample,
        starts.repeat_interleave(repeats, 0),
        steps,
        generator=generator,
    )
    chains.append(chain.reshape(steps + 1, len(starts), repeats, 2))

# %%
# The path that they approach follows the average direction: the flow of the velocity.

ends = ODESampler("dopri5", steps=1).sample(oracle, starts).final

# %%
# Rings are starts, dots are ends of chains and crosses ends of the deterministic path. Four steps scatter
# the chains. The middle start lies near the watershed between the two clouds, so its chains reach both, and
# need the most steps to agree.

figure, panels = plt.subplots(3, figsize=(6.4, 7.6), layout="constrained")
for axes, chain in zip(panels, chains, strict=True):
    for k, colour in enumerate(("#0072b2", "#d55e00", "#009e73")):
        axes.plot(*chain[:, k].permute(2, 0, 1), color=colour, linewidth=0.6, alpha=0.5)
        axes.scatter(*chain[-1, k].T, s=14, color=colour, zorder=3)
        axes.scatter(*starts[k], s=70, color="white", edgecolors=colour, linewidths=2, zorder=4)
    axes.scatter(*ends.T, s=70, color="black", marker="x", linewidths=2, zorder=5)
    axes.set(aspect="equal", xlim=(-2.5, 2.8), ylim=(-1.6, 1.6), xticks=[], yticks=[])
    axes.set_title(f"{len(chain) - 1} steps")
plt.show()
