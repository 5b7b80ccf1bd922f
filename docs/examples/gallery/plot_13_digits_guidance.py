r"""
Digits by class, with guidance
==============================

A small U-Net learns to draw digits, each asked for by its class. Guidance then exaggerates the class after
the training, by a scale of your choice. What does it gain, and what does it cost?
"""

import tempfile

import matplotlib.pyplot as plt
import torch

from interpolants import Guided, LearnedField, Linear, ODESampler, Regression, Trainer, UNet
from interpolants.data import Digits, ImageBatches
from interpolants.plotting import image_grid
from interpolants.training import WarmUp

# %%
# Guidance compares what the network answers with a class and without one, so it must learn both:
# ``class_dropout`` hides one label in ten. Digits of 8 by 8 pixels need only some seconds of training.

torch.manual_seed(0)  # weights, and which labels are hidden
known, held_out = Digits().split(1437)
trainer = Trainer(
    UNet(channels=1, width=16, multipliers=(1, 2), blocks=1, attention=(), classes=10, class_dropout=0.1),
    Regression(Linear()),
    ImageBatches(known, batch_size=64),  # (noise, images, labels)
    steps=160,
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=4e-3, fused=True),
    schedule=WarmUp(20, steps=160),
    averages=(0.98,),
    generator=torch.Generator().manual_seed(0),
)
losses = torch.stack([step.loss for step in trainer])
print(f"loss of the first 20 steps {losses[:20].mean():.0f}, of the last 20 {losses[-20:].mean():.0f}")

# %%
# The guided field is :math:`b_\text{none} + w\,(b_\text{class} - b_\text{none})`, two evaluations of
# the network. Scale :math:`w = 0` leaves the class out, 1 takes it as learnt. We call ``eval()`` on
# the averaged network: in training mode it would still hide a label now and then.

field = LearnedField(Linear(), velocity=trainer.averages[0.98].eval())
noise = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2)).repeat_interleave(10, dim=0)
label, sampler, made = torch.arange(10).repeat(20), ODESampler("heun", steps=6, end_only=True), {}
for w in (0, 1, 2, 4):
    made[w] = sampler.sample(Guided(field, field, w, null={"label": None}), noise, label=label).final

with tempfile.TemporaryDirectory() as folder:
    grid = plt.imread(image_grid(torch.cat([x[:20] for x in made.values()]), f"{folder}/a.png", columns=10))
plt.figure(figsize=(8, 6.8), layout="constrained").gca().imshow(grid)
plt.xticks([36 + 68 * k for k in range(10)], [f"{k}" for k in range(10)], fontsize=15)
plt.yticks([70 + 136 * k for k in range(4)], [f"{w}" for w in made], fontsize=15)
plt.ylabel("scale of guidance", fontsize=15)
plt.box(False)
plt.show()

# %%
# A column is a class, two rows are a scale, and the same two noises are behind all. At scale 0 the columns do
# not differ; larger scales make the digits bolder. Two figures: the share of images whose nearest real one is
# of the class asked for, and the variance within a class, summed over pixels. Held-out images set the mark.
# Standard errors are over noises (ten images each) and over classes: both are 0 at scale 0, blind to classes.

real, classes = known.batch(torch.arange(len(known)))
for name, images in {"held out": held_out.batch(torch.arange(360))[0], **made}.items():
    asked = label if name in made else held_out.labels
    nearest = torch.cdist(images.flatten(1), real.flatten(1)).argmin(1)
    right = (classes[nearest] == asked).double().view(-1, 10).mean(1)  # for each noise
    spread = torch.stack([images[asked == k].flatten(1).var(0).sum() for k in range(10)])
    share = f"{right.mean():6.1%} ± {right.std() / len(right) ** 0.5:.1%}"
    print(f"{name!s:>8}: as asked {share}, variance {spread.mean():4.1f} ± {spread.std() / 10**0.5:.1f}")

# %%
# Guidance makes images surer of their class, and less diverse than real ones. So it stays with 3,000 steps of
# a wider network (``interpolants train digits``, then ``python -m benchmarks.guidance --run runs/digits``),
# first picture; real images have a Fréchet distance of 0.56 ± 0.25. The second picture is without guidance.
#
# .. image:: ../images/guidance.png
# .. image:: ../images/digits.png
