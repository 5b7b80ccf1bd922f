"""
Why the average direction is enough
===================================

Each step of the random chain is its average plus a deviation. Averages add up; deviations, drawn afresh each
time, mostly cancel, and all but vanish as the steps shrink.
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
# At one blend, the average of :math:`x_1 - x_0` over drawn pairs is the velocity, up to the noise of 2,000
# draws.

x, draws = torch.tensor([[0.0, 0.05]]), 2000
x0, x1, _ = oracle.posterior_sample(0.5, x.expand(draws, 2), generator=generator)
directions = x1 - x0
mean, error = directions.mean(0), directions.std(0) / draws**0.5
velocity = oracle.velocity(0.5, x)[0]
for name, m, e, b in zip("xy", mean, error, velocity, strict=True):
    print(f"direction along {name}: mean of draws {m:.3f} +- {e:.3f}, velocity {b:.3f}")

# %%
# Now whole chains, 500 from one start, in ever more steps. Printed is the root mean square distance of
# their ends from the end of the flow. The random part falls like one over the root of the number of steps;
# a fourfold number of steps halves it.

start = torch.tensor([[-2.0, 0.6]])
end = ODESampler("dopri5", steps=1).sample(oracle, start).final
counts, distances, first = (2, 8, 32, 128, 512), [], 4
for steps in counts:
    chain = deblending_chain(
        oracle.interpolant, oracle.posterior_sample, start.expand(500, 2), steps, generator=generator
    )
    distances.append(float((chain[-1] - end).square().sum(1).mean().sqrt()))
    print(f"{steps:4d} steps: {distances[-1]:.3f}")

# %%
# Above, the drawn directions at the blend and their average; below, the distances, beside a line of slope
# -1/2.

figure, (top, bottom) = plt.subplots(2, figsize=(6.4, 6.6), height_ratios=(1, 1.1), layout="constrained")
top.scatter(*directions.T, s=5, color="0.55", alpha=0.5, linewidths=0)
top.scatter(*velocity, s=110, marker="X", color="C1", edgecolors="black", zorder=3)
top.text(velocity[0] + 0.1, velocity[1] - 0.35, "the average", weight="bold")
top.axhline(0, color="0.8", zorder=0)
top.set(xlabel="direction along x", ylabel="direction along y")
top.set_title("directions $x_1 - x_0$ of the pairs at one blend")
bottom.loglog(counts, distances, "o-", color="C0", label="chains from one start")
slope = [distances[-1] * (counts[-1] / steps) ** 0.5 for steps in counts]
bottom.loglog(counts, slope, "--", color="black", label=r"$\propto 1/\sqrt{\mathrm{steps}}$")
bottom.set(xlabel="steps", ylabel="distance from the flow's end", title="chains gather round the flow")
bottom.set_xticks(counts, [str(steps) for steps in counts], minor=False)
bottom.minorticks_off()
bottom.legend()
plt.show()
