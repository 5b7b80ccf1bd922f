r"""
From one picture to another
===========================

Two gray pictures are taken for densities in the plane. A small network learns the velocity that carries
points of the first into points of the second, and Euler steps follow it :cite:p:`heitz2023iterative`.
"""

import tempfile
from functools import partial

import matplotlib.pyplot as plt
import torch
from PIL import Image, ImageDraw

from interpolants import MLP, LearnedField, Linear, ODESampler, Regression, Trainer, wasserstein2
from interpolants.data import RandomPairs, load_density, shipped_density
from interpolants.plotting import panel
from interpolants.training import WarmUp

# %%
# White is dense, black is empty, and the longer side spans :math:`[-1, 1]`. A heart and a star come with the
# library. Any PNG will do: here a ring is drawn and read. Put the path of your own in its place.

source, target = load_density(shipped_density("p0")), load_density(shipped_density("p1"))
picture = Image.new("L", (128, 128))
ImageDraw.Draw(picture).ellipse((16, 16, 112, 112), outline=255, width=24)
with tempfile.TemporaryDirectory() as folder:
    picture.save(f"{folder}/ring.png")
    ring = load_density(f"{folder}/ring.png")

figure, panels = plt.subplots(1, 3, figsize=(8, 2.9), layout="constrained")
for axes, density, name in zip(panels, (source, target, ring), ("source", "target", "your own"), strict=True):
    axes.imshow(density.values.numpy(), cmap="gray", extent=(-1, 1, -1, 1))
    axes.set_title(name, fontsize=13)
    axes.set_axis_off()

# %%
# A minibatch holds 256 points of each picture, paired at random. The loss draws a time for each pair, blends
# the two points, and asks the network for their difference. Everything random comes from one generator.

generator = torch.Generator().manual_seed(0)
x0, x1 = source.sample(20_000, generator=generator), target.sample(20_000, generator=generator)
network, pairs = MLP(dim=2, generator=generator), RandomPairs(x0, x1, 256, generator=generator)
adam, schedule = partial(torch.optim.Adam, lr=5e-3), WarmUp(100, steps=2_500)
trainer = Trainer(
    network, Regression(Linear()), pairs, steps=2_500, generator=generator, optimizer=adam, schedule=schedule
)
losses = torch.stack([step.loss for step in trainer])
print(
    f"mean loss of the first 100 steps {losses[:100].mean():.3f}, of the last 100 {losses[-100:].mean():.3f}"
)

# %%
# The loss cannot go to 0: many pairs blend to one point, and the network can know only the mean of their
# differences. So look at what it does to fresh points of the heart. Each keeps the colour it starts with:
# neighbours stay neighbours, for the map of an ODE is continuous.

field = LearnedField(Linear(), velocity=network)
path = ODESampler("euler", steps=128).sample(field, source.sample(2_000, generator=generator))
drawing = panel(path.x[::32], path.t[::32].tolist(), bounds=(1.0, 1.0))
for axes in drawing.axes:
    axes.xaxis.label.set_fontsize(14)
plt.figure(drawing)  # Pyplot shows it from 3.11 on; interpolants.plotting.save writes it to a file.
# sphinx_gallery_thumbnail_number = 2
plt.show()

# %%
# How good is it? The 2-Wasserstein distance from 1,000 carried points to 1,000 fresh points of the star would
# not be 0 even for a perfect map. Its floor is the distance between two fresh sets: read the two together.

measured = {"carried to fresh": [], "fresh to fresh": []}
for _ in range(4):
    fresh = [target.sample(1_000, generator=generator) for _ in range(3)]
    end = ODESampler(end_only=True).sample(field, source.sample(1_000, generator=generator)).final
    measured["carried to fresh"].append(wasserstein2(end, fresh[0]))
    measured["fresh to fresh"].append(wasserstein2(fresh[1], fresh[2]))
for name, distances in measured.items():
    print(f"{name:16}: {sum(distances) / 4:.4f}, from {min(distances):.4f} to {max(distances):.4f}")
