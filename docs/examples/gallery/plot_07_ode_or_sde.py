r"""
ODE or SDE: choosing epsilon after training
===========================================

With a velocity and a denoiser, every :math:`\epsilon(t) \ge 0` gives an SDE, and 0 the ODE. If both are right
all have the same marginals :cite:p:`albergo2023stochastic`. If not, more noise lets the score correct more of
the velocity's errors, and lets in more of its own errors.
"""

import matplotlib.pyplot as plt
import torch

from interpolants import MLP, Brownian, GaussianMixture, Heads, LearnedField, Linear, MixtureOracle, Trainer
from interpolants.losses import Denoiser, InverseVariance, Joint, Regression, Velocity, Weighted
from interpolants.plotting import flow_figure
from interpolants.samplers import ProportionalToGamma, SDESampler, kl_bound

# %%
# On a line, between Gaussian mixtures, the exact field is known. Two others are made wrong on purpose. A
# fourth is trained: one network with two heads, and a weight that keeps the velocity's loss finite at the
# ends.

path = Linear(gamma=Brownian(0.5))
source = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
modes, variances = torch.tensor([[-2.5], [0.0], [2.5]]), torch.full((3, 1, 1), 0.1)
target = GaussianMixture(torch.tensor([0.3, 0.4, 0.3]), modes, variances)
oracle = MixtureOracle(path, source, target)


def mistaken(**errors):
    def network(t, x):
        known = oracle.together(("velocity", "denoiser"), t, x)
        return {name: known[name] + errors.get(name, 0) * torch.sin(3 * x) for name in known}

    return LearnedField(path, velocity=network, denoiser=network)


random = torch.Generator().manual_seed(0)
heads = Heads(MLP(dim=1, out_dim=2, generator=random))
velocity = Weighted(Velocity(), InverseVariance(path.gamma, rest=0.25))
loss = Regression(path, Joint(velocity=velocity, denoiser=Denoiser()))
batches = [(source.sample(512, generator=random), target.sample(512, generator=random)) for _ in range(1000)]
list(Trainer(heads, loss, batches, steps=1000, generator=random, schedule=lambda k: 5 - k / 200))
fields = {"exact": oracle, "wrong velocity": mistaken(velocity=0.3), "wrong denoiser": mistaken(denoiser=0.3)}
fields["trained"] = LearnedField(path, velocity=heads, denoiser=heads)

# %%
# With :math:`\epsilon = c\,\gamma` the drift needs :math:`\epsilon s = -c\,\eta_z`: nothing is divided by a
# :math:`\gamma` near 0. Divergences are from the target's cells to a histogram of samples, with a standard
# error of about :math:`\sqrt{2\,\mathrm{KL}/n}`. Even perfect samples, 5,000 in 40 cells, get about 0.004. No
# such floor, and no error of steps, is in the dotted lines, :func:`~interpolants.kl_bound`.

x0, x1 = source.sample(5000, generator=random), target.sample(5000, generator=random)
edges = torch.linspace(-4, 4, 41)
cells = (target.weights @ torch.distributions.Normal(modes, 0.1**0.5).cdf(edges)).diff()
figure, axes = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
epsilons, labels = [ProportionalToGamma(c) for c in (0, 0.5, 2, 8)], ["ODE", "0.5", "2", "8"]
colours = ("black", "tab:blue", "tab:orange", "tab:purple")
for (name, field), colour in zip(fields.items(), colours, strict=True):
    runs = [SDESampler(epsilon, steps=80).sample(field, x0, generator=random) for epsilon in epsilons]
    counts = torch.stack([torch.histogram(run.final.flatten(), edges).hist for run in runs]) + 0.5
    found = (cells * (cells * counts.sum(1, keepdim=True) / counts).log()).sum(1).tolist()
    print(f"{name:15}" + "".join(f"{kl:8.4f} ± {(kl / 2500) ** 0.5:.4f}" for kl in found))
    axes.plot(labels, found, "o-", linewidth=2, label=name, color=colour)
    bounds = [kl_bound(field, oracle, x0, x1, epsilon, generator=random).value for epsilon in epsilons[1:]]
    axes.plot(labels[1:], bounds, ":", linewidth=2, color=colour)
axes.set(yscale="log", xlabel="c, where epsilon = c gamma", ylabel="KL divergence (nats)")
figure.legend(loc="outside upper center", ncols=4, fontsize=10)

# %%
# The exact field does not care. If only the velocity is wrong, more noise is better; if only the denoiser,
# none is best. The trained field errs in both and gains a little from noise. How much is best for yours you
# have to measure: the bound needs the truth, and is only a bound. These are the trained field's paths.

times, places = torch.linspace(0, 1, 81), torch.linspace(-4, 4, 161)
density = torch.stack([oracle.log_density(t, places[:, None]) for t in times]).exp()
paths = [(runs[k].t, runs[k].x[:, :60, 0]) for k in (0, 2)]
plt.figure(flow_figure([density], times, places, [paths], labels=["ODE", "SDE, c = 2"]))
plt.show()
