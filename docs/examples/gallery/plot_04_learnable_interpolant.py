r"""
A path that is learned
======================

The weights of a path may have parameters. What should they be trained for? Not for a low regression loss.
"""

from functools import partial

import matplotlib.pyplot as plt
import torch

import interpolants as si


class Bent(torch.nn.Module, si.SpatiallyLinear):
    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.tensor(0.0)) for _ in range(2))

    def alpha(self, t):
        return 1 - t + self.a * torch.sin(torch.pi * t)

    def beta(self, t):
        return t + self.b * torch.sin(torch.pi * t)

    def alpha_derivative(self, t):  # Automatic unless written; written it is faster.
        return -1 + self.a * torch.pi * torch.cos(torch.pi * t)

    def beta_derivative(self, t):
        return 1 + self.b * torch.pi * torch.cos(torch.pi * t)


print("trained beside the network:", *Bent().modules_to_train()["interpolant"].state_dict())

# %%
# While the weights are positive, all paths lead to the same map (:doc:`plot_09_change_of_path`): they choose
# how points travel. The energy :math:`\int E|b|^2 dt` is never below the mean squared length of the map, and
# equals it when all go straight at constant speed. It is minus the least value of the quadratic loss. So the
# network lowers that loss and the path raises it :cite:p:`albergo2022building`, by ``maximize`` in Adam. A
# trainer by itself lets the path lower its loss, too. For regression that lowers the floor of the loss, the
# variance of :math:`\dot x_t` given :math:`x_t`, averaged over both.

normal = si.GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
corners, spread = torch.cat([0.7 * torch.eye(2), -0.7 * torch.eye(2)]), 0.15**2 * torch.eye(2)
target = si.GaussianMixture(torch.ones(4), corners, spread.expand(4, 2, 2))
generator = torch.Generator().manual_seed(0)
pairs = [[ends.sample(256, generator=generator) for ends in (normal, target)] for _ in range(1_000)]
paths = {"linear": si.Linear(), "trigonometric": si.Trigonometric()}
for name, loss, up in (("least energy", si.Quadratic, True), ("least loss", si.Regression, False)):
    path, network = Bent(), si.MLP(2, generator=generator)
    groups = [{"params": [*network.parameters()]}, {"params": [path.a, path.b], "lr": 1e-3, "maximize": up}]
    make = partial(lambda groups, _: torch.optim.Adam(groups, lr=3e-3), groups)
    list(si.Trainer(network, loss(path), pairs, steps=1_000, generator=generator, optimizer=make))
    paths[name] = path.requires_grad_(False)

# %%
# Exact velocities tell what was learned, on 2,000 pairs: floor, energy, how far Euler steps end from the
# flow's end. Least energy pays here. It is a proxy: with corners at 1.3 of deviation 0.3 the trigonometric
# path errs less. Least loss shrinks all to almost one point, where little is left to guess, and errs most.

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 4.3), layout="constrained")
x0, x1 = (ends.sample(2_000, generator=generator) for ends in (normal, target))
t, mean = torch.linspace(0, 1, 31), lambda x: x.square().sum(dim=-1).mean(dim=-1)
samplers = [si.ODESampler(*how) for how in (("dopri5", 1), ("euler", 4), ("euler", 16))]
print("path            floor  energy  4 steps  16 steps")
for (name, path), style in zip(paths.items(), ("C0--", "C1--", "k", "C4"), strict=True):
    oracle, samples = si.MixtureOracle(path, normal, target), [path.sample(float(s), x0, x1) for s in t]
    energy = mean(torch.stack([oracle.velocity(s.t[0], s.xt) for s in samples]))
    floor = mean(torch.stack([s.xt_dot for s in samples])) - energy
    end, *few = (sampler.sample(oracle, x0).final for sampler in samplers)
    errors = "".join(f"{mean(short - end).sqrt():9.3f}" for short in few)
    print(f"{name:14}{torch.trapezoid(floor, t):7.2f}{torch.trapezoid(energy, t):8.3f}{errors}")
    left.plot(path.alpha(t), path.beta(t), style, label=name, linewidth=2)
    right.plot(t, energy, style, linewidth=2)
left.set(xlabel=r"$\alpha$", ylabel=r"$\beta$", aspect="equal")
right.set(xlabel="$t$", title="$E|b|^2$ at $t$", ylim=(0, 5))
figure.legend(loc="outside lower center", ncols=4, fontsize=11)
plt.show()
