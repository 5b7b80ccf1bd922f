r"""
Another path, without training again
====================================

A velocity learnt on one path :math:`\alpha x_0 + \beta x_1`, without latent noise, fixes the mean of each end
given :math:`x_t`. These fix the velocity on every other such path of the same pairs: a point of the one is,
rescaled, a point of the other at another time. So you need not sample on the path that you trained on.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, LearnedField, Linear, ODESampler, Regression, Trainer, Trigonometric
from interpolants.data import moons
from interpolants.families import VariancePreserving

# %%
# One network learns on the linear path, from N(0, Id) to two moons. :meth:`Field.along
# <interpolants.Field.along>` makes fields of the two others from it.

random = torch.Generator().manual_seed(0)
network = MLP(dim=2, activation=torch.nn.SiLU, generator=random)
pairs = [(torch.randn(256, 2, generator=random), 2 * moons(256, generator=random)) for _ in range(2000)]
loss = Regression(Linear())
list(Trainer(network, loss, pairs, steps=2000, generator=random, schedule=lambda k: 5 - k / 400))
linear = LearnedField(Linear(), velocity=network, gaussian_source=True)
fields = {
    "linear": linear,
    "trigonometric": linear.along(Trigonometric()),
    "variance preserving": linear.along(VariancePreserving()),
}

# %%
# The ways differ, the ends do not
# --------------------------------
# The same starts (rings) in 200 small steps each. The last two paths draw the same curves, each at its own
# speed, since both keep :math:`\alpha^2 + \beta^2 = 1`. What is left between the ends are the errors of the
# steps.

x0 = torch.randn(1000, 2, generator=random)
figure, panels = plt.subplots(1, 3, figsize=(8, 2.4), layout="constrained")
ends = {}
for axes, (name, field) in zip(panels, fields.items(), strict=True):
    run = ODESampler("midpoint", steps=200).sample(field, x0)
    ends[name] = run.final
    apart = (run.final - ends["linear"]).norm(dim=1)
    print(f"{name:20} from the ends of linear: {apart.mean():.5f} in the mean, {apart.max():.5f} at most")
    axes.plot(*run.final.T, ".", color="silver", markersize=2)
    for k in range(24):
        (way,) = axes.plot(*run.x[:, k].T, color=plt.cm.viridis(k / 26), linewidth=1.5)
        axes.plot(*x0[k], "o", color=way.get_color(), markersize=4, markerfacecolor="white")
    axes.set(aspect="equal", xlim=(-3.8, 3.8), ylim=(-3, 3))
    axes.set_axis_off()
    axes.set_title(name, fontsize=13)

# %%
# Few steps
# ---------
# Here the path matters: the steps err differently. In Euler steps trigonometric is the best of the three for
# this target; in midpoint steps it is about as good as linear. The variance-preserving path loses the
# midpoint rule's second order, as :math:`\alpha` falls infinitely fast at its end. All of it is the error of
# the steps: that of the network is the same on every path.

figure, axes = plt.subplots(figsize=(7.4, 4), layout="constrained")
counts = (4, 8, 16, 32, 64)
for (name, field), colour in zip(fields.items(), ("tab:blue", "tab:orange", "black"), strict=True):
    for method, line in (("euler", "o-"), ("midpoint", "s:")):
        samplers = [ODESampler(method, steps=steps, end_only=True) for steps in counts]
        moved = [(sampler.sample(field, x0).final - ends["linear"]).norm(dim=1) for sampler in samplers]
        mean, label = [each.mean().item() for each in moved], f"{name}, {method}"
        axes.loglog(counts, mean, line, color=colour, linewidth=2, label=label)
        print(f"{label:30}" + "".join(f"{value:9.5f}" for value in mean))
axes.set(xlabel="steps", ylabel="mean distance from the end")
axes.set_xticks(counts, counts, minor=False)
axes.minorticks_off()
figure.legend(loc="outside upper center", ncols=3, fontsize=10)
plt.show()
