"""A training step and sampling steps of an image U-Net, beside loops written by hand."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.peers import absence, installed
from benchmarks.record import NOISE, OURS, PEER, Result, Table, estimated, missing
from benchmarks.settings import Settings
from benchmarks.speed import steps
from benchmarks.speed.peak import Peak, demand, measured_peak
from benchmarks.speed.steps import ADAM, AZULA_NOTE, Task
from benchmarks.timing import AGAIN, Timings, Work, interleaved
from interpolants import LearnedField, Linear, ODESampler
from interpolants.networks import UNet

BASE = "by hand"
RATIO = "to by hand"
EULER_STEPS = 4
TRAINERS = {
    "Trainer, the same Adam": partial(steps.trainer, optimizer=ADAM),
    "Trainer, fused Adam (default)": partial(steps.trainer, optimizer=None),
}


def run(settings: Settings) -> Result:
    """Return the tables of training and sampling, and on CUDA what share of the device they use."""
    task = images(settings)
    rounds = settings.rounds or settings.pick(2, 15, 60)
    timed = partial(interleaved, rounds=rounds, device=settings.device, warm_up=settings.pick(1, 3, 10))
    training = training_works(task, settings)
    training_times = timed(training)
    network = task.network().eval()
    sampling_times = timed(sampling_works(network, task.x0s[: task.batch], settings))
    tables = [_training_table(training_times, settings), _sampling_table(sampling_times, settings)]
    if settings.device.type == "cuda":
        tables.append(share_table(training, training_times, measured_peak(settings.device)))
    return Result(tables, settings={"batch": task.batch, "shape": list(task.x0s.shape[1:])})


def images(settings: Settings) -> Task:
    """Return noise as sources and targets: what is in the pictures makes no difference to the time."""
    on_cuda = settings.device.type == "cuda"
    tiny = settings.budget == "smoke" and not on_cuda
    batch, channels, side, width = (128, 3, 32, 128) if on_cuda else (16, 1, 16, 8 if tiny else 32)
    generator = torch.Generator().manual_seed(settings.first_seed)
    shape = (2, 4 * batch, channels, side, side)
    x0s, x1s = torch.randn(shape, generator=generator).to(settings.device)
    blocks = 2 if on_cuda else 1

    def network() -> nn.Module:
        return UNet(channels, width=width, multipliers=(1, 2), blocks=blocks).to(settings.device)

    return Task(network, x0s, x1s, batch)


def training_works(task: Task, settings: Settings) -> dict[str, Work]:
    """Return a training step of each contender."""
    works: dict[str, Work] = {BASE: steps.loop(task, steps.by_hand)}
    works |= {name: make(task) for name, make in TRAINERS.items()}
    return works | steps.peers(task, settings)


def sampling_works(network: nn.Module, x: Tensor, settings: Settings) -> dict[str, Work]:
    """Return some Euler steps of each contender."""
    field = LearnedField(Linear(), velocity=network)
    sampler = ODESampler("euler", steps=EULER_STEPS)
    works: dict[str, Work] = {
        BASE: partial(_euler, network, x),
        "ODESampler": lambda: sampler.sample(field, x).final,
    }
    if "flow_matching" in settings.peers and installed("flow_matching"):
        works["flow_matching"] = _flow_matching(network, x)
    return works


def share_table(works: dict[str, Work], times: Timings, peak: Peak) -> Table:
    """Return how much of the device's measured peak the training steps use."""
    table = Table(
        "unet_share",
        "A U-Net's training step: share of the device's measured peak",
        ["matrix products", "memory"],
        note=f"Measured in the same run: {peak.operations / 1e12:.1f} TFLOP/s in a large product (TF32), "
        f"{peak.bytes / 1e9:.0f} GB/s in a large copy. Memory counts each operation's arguments and results "
        "once, so what a cache keeps is counted too.",
    )
    for name, work in works.items():
        asked, seconds = demand(work), min(times.seconds[name])
        cells = {
            "matrix products": estimated(asked.operations / seconds / peak.operations, None),
            "memory": estimated(asked.bytes / seconds / peak.bytes, None),
        }
        table.add(name, cells, OURS if name in TRAINERS else PEER)
    return table


@torch.no_grad()
def _euler(network: nn.Module, x: Tensor) -> Tensor:
    for k in range(EULER_STEPS):
        t = x.new_full((len(x),), k / EULER_STEPS)
        x = x + network(t, x) / EULER_STEPS
    return x


def _flow_matching(network: nn.Module, x: Tensor) -> Work:
    from flow_matching.solver import ODESolver

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        answer: Tensor = network(t.expand(len(x)), x)
        return answer

    solver = ODESolver(velocity_model=velocity)
    return lambda: solver.sample(x_init=x, step_size=1 / EULER_STEPS, method="euler")


def _training_table(times: Timings, settings: Settings) -> Table:
    table = _begun("unet_training", "A training step of a U-Net, as a ratio of times", times, AZULA_NOTE)
    for name in TRAINERS:
        table.add(name, {RATIO: times.cell(name)}, OURS)
    steps.add_peers(table, lambda name: {RATIO: times.cell(name)}, settings)
    return table


def _sampling_table(times: Timings, settings: Settings) -> Table:
    table = _begun("unet_sampling", f"{EULER_STEPS} Euler steps of a U-Net, as a ratio of times", times, "")
    table.add("ODESampler", {RATIO: times.cell("ODESampler")}, OURS)
    for name in settings.peers:
        # torchcfm leaves sampling to others, and azula's samplers are of denoisers.
        has_none = name != "flow_matching"
        why = "no Euler step of a velocity" if has_none else absence(name)
        table.add(name, {RATIO: times.cell(name) if name in times.seconds else missing(why)}, PEER)
    return table


def _begun(name: str, title: str, times: Timings, note: str) -> Table:
    table = Table(name, title, [RATIO], note=note, lower_is_better=True)
    for label in (BASE, BASE + AGAIN):
        table.add(label, {RATIO: times.cell(label)}, NOISE)
    return table
