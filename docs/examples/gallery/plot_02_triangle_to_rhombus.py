r"""
A triangle becomes a rhombus
============================

IADB is told as a random chain of deblending and blending, and run as an ODE
:cite:p:`heitz2023iterative`. Between two uniform shapes both can be had without a network.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import LearnedField, Linear, ODESampler, deblending_chain, wasserstein2
from interpolants.oracles import RejectionPosterior, field_on_grid, grid_points, rhombus, triangle
from interpolants.plotting import chain_figure, colours_by_start

path, source, target = Linear(), triangle(), rhombus()
generator = torch.Generator().manual_seed(0)

# %%
# To deblend a point is to draw a pair :math:`(x_0, x_1)` among all that blend to it. Here by rejection: one
# end is proposed from its shape, and kept if the other then falls into its own. Deblend, blend at the next
# time, and so on: that is the chain. Its ends are random. A point that follows the mean of all pairs that it
# could come from, :math:`E[x_1 - x_0 \mid x_t = x]`, which is what a network learns, has one end: that is the
# ODE. The mean of 400 pairs stands for it.

deblend = RejectionPosterior(path, source, target)


def velocity(t, x, pairs=400):
    x0, x1, _ = deblend(t[0].item(), x.repeat_interleave(pairs, dim=0), generator=generator)
    return (x1 - x0).unflatten(0, (-1, pairs)).mean(dim=1)


starts, steps = torch.tensor([[-1.3, -0.6], [-0.5, -0.6], [-0.9, 0.5]]), (4, 32, 256)
crosses = ODESampler(steps=64).sample(LearnedField(path, velocity=velocity), starts).final
repeated = starts.repeat_interleave(40, dim=0)
chains = [
    deblending_chain(path, deblend, repeated, n, generator=generator).unflatten(1, (3, 40)) for n in steps
]
drawing = chain_figure(chains, crosses, [f"{n} steps" for n in steps], bounds=(1.6, 1.0))
plt.figure(drawing)  # Pyplot shows it from 3.11 on; interpolants.plotting.save writes it to a file.
# sphinx_gallery_thumbnail_number = 2
plt.show()

# %%
# With more steps the chain loses its randomness. The mean squared distance of its ends from the crosses falls
# about like one over the steps; the crosses have a small error too. In the limit the chain is the ODE.

for n, chain in zip(steps, chains, strict=True):
    squared = (chain[-1] - crosses[:, None]).square().sum(dim=-1).mean()
    print(f"{n:3} steps: mean squared distance {squared:.4f}, times the steps {n * squared:.2f}")

# %%
# The velocity can be had without deblending too: blend many pairs, and take the mean of :math:`x_1 - x_0`
# over those that fall into one cell of a grid, as regression does. Arrows show it at three times. The points
# below follow the deblended velocity, here from 24 pairs a step, each in the colour it starts with.

x0, x1 = (shape.sample(200_000, generator=generator) for shape in (source, target))
cloud, few = source.sample(300, generator=generator), lambda t, x: velocity(t, x, pairs=24)
carried = ODESampler(steps=32).sample(LearnedField(path, velocity=few), cloud)
figure, (above, below) = plt.subplots(2, 1, figsize=(7, 7.8), layout="constrained")
bounds = (-1.6, 1.6, -0.9, 0.9)
for k, colour in ((0, "tab:blue"), (16, "0.45"), (32, "tab:orange")):
    arrows = field_on_grid(path, x0, x1, k / 32, bounds=bounds, resolution=24).numpy()
    x, y = grid_points(bounds, 24).numpy().T
    above.quiver(x.T, y.T, *arrows.transpose(2, 0, 1), color=colour, scale=45, width=0.004)
    below.scatter(*carried.x[k].numpy().T, s=18, c=colours_by_start(cloud).numpy())
    above.text(-0.9 + 1.8 * k / 32, -1.02, f"t = {k / 32:g}", ha="center", fontsize=14)
for axes in (above, below):
    axes.set(aspect="equal", xlim=bounds[:2], ylim=(-1.05, 0.95), frame_on=False, xticks=[], yticks=[])
plt.show()

# %%
# The carried points fill the rhombus: they are about as far from fresh ones as those are from each other.

fresh = [target.sample(300, generator=generator) for _ in range(8)]
for name, one in (("carried", [carried.final] * 4), ("fresh", fresh[:4])):
    distances = [wasserstein2(*pair) for pair in zip(one, fresh[4:], strict=True)]
    print(f"{name:7} to fresh: from {min(distances):.3f} to {max(distances):.3f}")
