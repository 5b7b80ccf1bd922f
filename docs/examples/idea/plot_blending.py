"""
Blending and deblending
=======================

Draw a point of each density and blend the two. Then turn the question round: given the blend, which pairs
could have made it?
"""

import matplotlib.pyplot as plt
import torch

from interpolants import GaussianMixture, Linear, MixtureOracle

plt.rcParams.update({"font.size": 12})
generator = torch.Generator().manual_seed(1)

# %%
# The source is one round cloud at the left, the target two clouds at the right.

source = GaussianMixture(torch.ones(1), torch.tensor([[-1.8, 0.0]]), 0.12 * torch.eye(2)[None])
target = GaussianMixture(
    torch.ones(2), torch.tensor([[1.8, -0.9], [1.8, 0.9]]), 0.06 * torch.eye(2).repeat(2, 1, 1)
)
x0, x1 = (density.sample(1500, generator=generator) for density in (source, target))

# %%
# **Blending.** Each pair moves straight from :math:`x_0` to :math:`x_1`. At t = 0.5 the blends of all pairs
# form a density of their own, half-way between the two.

path = Linear()
blends = path.sample(0.5, x0, x1).xt

# %%
# **Deblending.** Fix one blend :math:`x` and draw pairs from the posterior, which for Gaussian mixtures is
# known exactly. Every drawn pair blends to :math:`x`, to rounding.

x, pairs = torch.tensor([[0.0, 0.05]]), 40
oracle = MixtureOracle(path, source, target)
d0, d1, _ = oracle.posterior_sample(0.5, x.expand(pairs, 2), generator=generator)
miss = (path.sample(0.5, d0, d1).xt - x).abs().max()
print(f"the {pairs} pairs blend to x within {miss:.0e}; {int((d1[:, 1] > 0).sum())} of them end above")

# %%
# Blue is the source, orange the target and grey what lies between. Below, all lines pass through one point;
# the arrow is the average direction, which the oracle knows too.

figure, panels = plt.subplots(2, figsize=(6.4, 6.2), layout="constrained")
for axes in panels:
    for points, colour in ((x0, "C0"), (blends, "0.5"), (x1, "C1")):
        axes.scatter(*points.T, s=3, color=colour, alpha=0.15, linewidths=0)
    axes.set(aspect="equal", xlim=(-3, 3), ylim=(-1.6, 1.6), xticks=[], yticks=[])
top, bottom = panels
for k in (3, 6):
    top.plot(*torch.stack([x0[k], x1[k]]).T, color="black", linewidth=1)
    for t in (0, 0.25, 0.5, 0.75, 1):
        blend = path.sample(t, x0[k : k + 1], x1[k : k + 1]).xt
        top.scatter(*blend.T, s=40, color="black", zorder=3)
top.set_title("blend: one pair gives one point at each t")
for start, end in zip(d0, d1, strict=True):
    bottom.plot(*torch.stack([start, end]).T, color="0.3", linewidth=0.6, alpha=0.6)
bottom.scatter(*d0.T, s=12, color="C0", zorder=3)
bottom.scatter(*d1.T, s=12, color="C1", zorder=3)
mean = 0.3 * oracle.velocity(0.5, x)[0]
bottom.annotate(
    "", (x[0] + mean).tolist(), x[0].tolist(), arrowprops={"width": 3, "color": "black"}, zorder=5
)
bottom.scatter(*x.T, s=60, color="white", edgecolors="black", linewidths=1.5, zorder=6)
bottom.set_title("deblend: many pairs could have given this one")
for axes in panels:
    for place, name in ((-1.8, "source, t = 0"), (0.0, "t = 0.5"), (1.8, "target, t = 1")):
        axes.text(place, -1.5, name, ha="center")
plt.show()
