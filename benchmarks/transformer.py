"""The transformer of images: training and sampling, in images per second, beside the peak of the device.

    python -m benchmarks.transformer [--size B/2] [--image 32] [--channels 4] [--batch 256] [--steps 128]
        [--precision bf16] [--compile | --no-compile] [--device cuda] [--rounds 20] [--out FILE] [--save]

Peak: the quickest of several products of large square matrices of normal numbers, in the same precision.

Training: one step with fused AdamW, on minibatches drawn from points that lie on the device, by the
library's Trainer over accelerate and by a loop written by hand with torch.autocast and torch.compile. Rounds
take a block of steps of each in turn; the figure is the median over rounds of the ratio to the hand-written
loop's block of the same round. The hand-written loop stands in the table twice: the second row is the noise.
The share of the peak counts the products of matrices alone (see `training_flops`).

Sampling: Euler steps of ODESampler with the network as it is and with the compiled one, whose kernels a GPU
replays as one graph. Both are compared with the same steps in double precision: the compiled one agrees when
its error is at most twice that of the other.

Memory is the peak of what a contender allocates, its weights and the state of the optimiser included where it
makes them. Waits are how often the processor waits for the GPU, in one step or in one batch of samples, as
far as torch can see. In full precision GPUs multiply in TF32, as torch.set_float32_matmul_precision("high")
says. Compiling is left out on a CPU unless it is asked for: there it takes minutes.
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib.metadata
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import description, save
from interpolants import LearnedField, Linear, ODESampler, Regression, Trainer
from interpolants.data import RandomPairs
from interpolants.networks import Transformer
from interpolants.training import Accelerated

Work = Callable[[], object]
Network = Callable[[Tensor, Tensor], Tensor]
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]

OPTIMIZER = partial(torch.optim.AdamW, lr=1e-4, fused=True)
DTYPES = {"bf16": torch.bfloat16, "no": torch.float32}
# Sides of the matrices: several, since none is the best on every device.
SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024)}
PRODUCTS = 10
# Long enough that starting and stopping the clock does not count.
BLOCK_SECONDS = {"cuda": 1.0, "cpu": 0.1}
# Images compared in double precision, which is slow.
FEW = 8


@dataclass(frozen=True)
class Setting:
    """What is measured."""

    size: str = "B/2"
    image: int = 32
    channels: int = 4
    batch: int = 256
    steps: int = 128
    precision: str = "bf16"
    compile: bool = True
    device: str = "cuda"

    def network(self) -> Transformer:
        network = Transformer.named(self.size, self.channels, self.image)
        return as_if_trained(network).to(self.device)

    def points(self, count: int) -> Tensor:
        return torch.randn(count, self.channels, self.image, self.image, device=self.device)

    def autocast(self) -> AbstractContextManager[Any]:
        low = self.precision != "no"
        return torch.autocast(self.device, DTYPES[self.precision]) if low else nullcontext()

    def command(self, rounds: int) -> str:
        values = {**asdict(self), "rounds": rounds}
        compiled = "--compile" if values.pop("compile") else "--no-compile"
        options = " ".join(f"--{name} {value}" for name, value in values.items())
        return f"python -m benchmarks.transformer {options} {compiled}"


def as_if_trained(network: Transformer) -> Transformer:
    """Draw the weights that start at 0: with those the answer is 0, whatever is wrong before it."""
    for block in network.blocks:
        nn.init.normal_(block.modulation.weight, std=0.02)
        nn.init.normal_(block.modulation.bias, std=0.3)
    for layer in (network.modulation, network.last):
        nn.init.normal_(layer.weight, std=0.02)
    return network


# -------------------------------------------------------------------------------- operations, time and memory


def forward_flops(network: Transformer) -> int:
    r"""Return the operations of an image's products of matrices, two for each of its multiply-adds m.

    With L tokens of width w in n blocks, patches of p numbers that become q numbers, and f features of time,

    .. math:: m = L p w + f w + w^2 + n (12 L w^2 + 2 L^2 w + 6 w^2) + 2 w^2 + L w q :

    the first layer; two layers of time; in each block 4 w^2 for the ends of attention and 8 w^2 for the two
    layers per token, attention's two products, and the modulation, one for each image; then the last ones.
    """
    tokens, width = network.position.shape
    block = 12 * tokens * width**2 + 2 * tokens**2 * width + 6 * width**2
    ends = 3 * width**2 + tokens * width * network.last.out_features
    return 2 * (_of_data(network) + len(network.blocks) * block + ends)


def training_flops(network: Transformer) -> int:
    r"""Return the operations of an image's products of matrices in a forward and a backward pass.

    It is :math:`6 m` with the multiply-adds m of :func:`forward_flops`: each product has one of its size for
    the gradient of either factor. Where the data enters, :math:`L p w + f w`, the gradient is that of the
    weights alone. What attention computes again in its backward pass is not counted.
    """
    return 3 * forward_flops(network) - 2 * _of_data(network)


def _of_data(network: Transformer) -> int:
    """Return the multiply-adds of the layers whose input needs no gradient."""
    tokens, width = network.position.shape
    return int(tokens * network.first.in_features * width + network.condition.first.in_features * width)


def seconds(work: Work, device: str) -> float:
    """Return how long some work takes, on the device too."""
    if device == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    work()
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1e3


def waits(work: Work) -> int:
    """Return how often some work makes the processor wait for the GPU, as far as torch can see."""
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    # Switching it on warns too, in other words.
    return sum("called a synchronizing" in str(warning.message) for warning in caught)


def ready(make: Callable[[], Work], device: str) -> tuple[Work, dict[str, Any]]:
    """Return what was made, after its first calls, with what those cost."""
    cuda = device != "cpu"
    before = torch.cuda.memory_allocated() if cuda else 0
    work = make()
    figures: dict[str, Any] = {"first_call_seconds": seconds(work, device)}
    figures |= {"peak_memory_bytes": None, "waits": None}
    if cuda:
        # From here on, since what the compiler tried out does not count.
        torch.cuda.reset_peak_memory_stats()
        for _ in range(2):
            work()
        figures["peak_memory_bytes"] = torch.cuda.max_memory_allocated() - before
        figures["waits"] = waits(work)
    return work, figures


def peak(precision: str, device: str, rounds: int) -> float:
    """Return the operations per second of the quickest products of large square matrices."""
    best = 0.0
    for side in SIDES[device]:
        # Not zeros: with those a GPU draws less power and runs faster.
        a, b = (torch.randn(side, side, device=device, dtype=DTYPES[precision]) for _ in range(2))
        multiply = partial(_products, a, b, torch.mm(a, b))
        quickest = min(seconds(multiply, device) for _ in range(rounds))
        best = max(best, PRODUCTS * 2 * side**3 / quickest)
    return best


def _products(a: Tensor, b: Tensor, out: Tensor) -> None:
    for _ in range(PRODUCTS):
        torch.mm(a, b, out=out)


def compare(contenders: Mapping[str, Work], calls: int, rounds: int, device: str) -> dict[str, Any]:
    """Return for each contender the seconds of a call and their ratio to the first one's, medians."""

    def block(work: Work) -> float:
        return seconds(lambda: [work() for _ in range(calls)], device) / calls

    names = list(contenders)
    rows = []
    for k in range(rounds):
        # Another order each round: a neighbour's load and a warm GPU then fall on all alike.
        turn = k % len(names)
        rows.append({name: block(contenders[name]) for name in names[turn:] + names[:turn]})
    figures = {}
    for name in names:
        ratios = [row[name] / row[names[0]] for row in rows]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        took = statistics.median(row[name] for row in rows)
        figures[name] = {"ratio": middle, "quartiles": [low, high], "seconds": took}
    return figures


# ----------------------------------------------------------------------------------------------- the training


def loss_by_hand(network: Network, setting: Setting) -> Loss:
    def loss(t: Tensor, x0: Tensor, x1: Tensor) -> Tensor:
        with setting.autocast():
            answer = network(t, torch.lerp(x0, x1, t[:, None, None, None]))
        return (answer.float() - (x1 - x0)).square().flatten(1).sum(1).mean()

    return loss


def by_hand(setting: Setting, x0s: Tensor, x1s: Tensor) -> Work:
    network = setting.network()
    optimizer = OPTIMIZER(network.parameters())
    loss = loss_by_hand(network, setting)
    if setting.compile:
        loss = torch.compile(loss)

    def some(points: Tensor) -> Tensor:
        return points[torch.randint(len(points), (setting.batch,), device=points.device)]

    def step() -> object:
        x0, x1 = some(x0s), some(x1s)
        t = torch.rand(setting.batch, device=x0.device)
        optimizer.zero_grad()
        value = loss(t, x0, x1)
        value.backward()
        optimizer.step()
        return value.detach()

    return step


def by_trainer(setting: Setting, x0s: Tensor, x1s: Tensor) -> Work:
    # Both on the device: what a generator on the CPU draws would have to be waited for.
    pairs, times = (torch.Generator(setting.device).manual_seed(seed) for seed in range(2))
    trainer = Trainer(
        setting.network(),
        Regression(Linear()),
        RandomPairs(x0s, x1s, setting.batch, generator=pairs),
        steps=10**9,
        optimizer=OPTIMIZER,
        generator=times,
        compile=setting.compile,
        engine=Accelerated(precision=setting.precision, cpu=setting.device == "cpu"),
    )
    return partial(next, trainer)


def training(setting: Setting, rounds: int, best: float) -> dict[str, Any]:
    """Return the figures of training steps; ``best`` is the peak in operations per second."""
    x0s, x1s = (setting.points(16 * setting.batch) for _ in range(2))
    makers = {"by hand": by_hand, "by hand again (noise)": by_hand, "Trainer": by_trainer}
    contenders, costs = {}, {}
    for name, maker in makers.items():
        contenders[name], costs[name] = ready(partial(maker, setting, x0s, x1s), setting.device)
    once = seconds(contenders["by hand"], setting.device)
    calls = max(1, math.ceil(BLOCK_SECONDS[setting.device] / once))
    figures = compare(contenders, calls, rounds, setting.device)
    return _with_rates(figures, costs, setting.batch, training_flops(setting.network()), best)


# ----------------------------------------------------------------------------------------------- the sampling


@torch.no_grad()
def sampled(network: Network, x: Tensor, setting: Setting) -> Tensor:
    """Return the last points of Euler steps from ``x``."""
    field = LearnedField(Linear(), velocity=network)
    with setting.autocast():
        trajectory = ODESampler(steps=setting.steps, end_only=True).sample(field, x)
    assert trajectory.evaluations == setting.steps
    return trajectory.final


def errors(found: Mapping[str, Tensor], network: nn.Module, x: Tensor, setting: Setting) -> dict[str, float]:
    """Return the error of final points against double precision, as a part of the way they went.

    Args:
        found: The final points, by name.
        network: What they were made with.
        x: Where they began; the first rows of ``found`` are compared with as many.
        setting: The setting.
    """
    exact = sampled(copy.deepcopy(network).double(), x.double(), replace(setting, precision="no"))
    way = (exact - x).norm()
    return {name: float((points[: len(x)] - exact).norm() / way) for name, points in found.items()}


def sampling(setting: Setting, rounds: int, best: float) -> dict[str, Any]:
    """Return the figures of whole trajectories; ``best`` is the peak in operations per second."""
    network, x = setting.network().eval(), setting.points(setting.batch)
    networks: dict[str, Network] = {"eager": network}
    if setting.compile:
        networks["eager again (noise)"] = network
        networks["compiled"] = torch.compile(network, mode="reduce-overhead", dynamic=False)
    found: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        found[name] = sampled(networks[name], x, setting)

    contenders, costs = {}, {}
    for name in networks:
        contenders[name], costs[name] = ready(partial(partial, keep, name), setting.device)
    figures = compare(contenders, 1, rounds, setting.device)
    rows = _with_rates(figures, costs, setting.batch, setting.steps * forward_flops(network), best)
    apart = errors(found, network, x[:FEW], setting)
    # The one that is compiled rounds elsewhere, and less often.
    agree = all(error <= 2 * apart["eager"] for error in apart.values())
    return {"rows": rows, "error_against_double_precision": apart, "agree_within_rounding": agree}


# ------------------------------------------------------------------------------------------------- the result


def _with_rates(
    figures: Mapping[str, dict[str, Any]],
    costs: Mapping[str, dict[str, Any]],
    images: int,
    flops: int,
    best: float,
) -> dict[str, Any]:
    rows = {}
    for name, row in figures.items():
        rate = images / row["seconds"]
        rows[name] = {**row, "images_per_second": rate, "share_of_peak": rate * flops / best, **costs[name]}
    return rows


def accelerator(device: str) -> dict[str, Any]:
    """Return what the device is, and the versions that matter on it."""
    packages = ("triton", "accelerate", "torchdiffeq")
    versions = {name: _version(name) for name in packages}
    if device == "cpu":
        return {"versions": versions}
    found = torch.cuda.get_device_properties(0)
    return {
        "name": found.name,
        "memory_bytes": found.total_memory,
        "multiprocessors": found.multi_processor_count,
        "versions": {**versions, "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()},
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measured(setting: Setting, rounds: int) -> dict[str, Any]:
    """Return all figures, and print them."""
    network = setting.network()
    figures: dict[str, Any] = {
        "command": setting.command(rounds),
        "setting": {**asdict(setting), "rounds": rounds},
        "accelerator": accelerator(setting.device),
        "parameters": sum(p.numel() for p in network.parameters()),
        "forward_flops_per_image": forward_flops(network),
        "training_flops_per_image": training_flops(network),
        "float32_matrix_products": torch.get_float32_matmul_precision(),
        "peak_flops_per_second": peak(setting.precision, setting.device, rounds),
    }
    best = figures["peak_flops_per_second"]
    print(f"peak of matrix products: {best / 1e12:.3g} TFLOP/s")
    figures["training"] = training(setting, rounds, best)
    show(f"a training step of {setting.batch} images", figures["training"])
    release(setting.device)
    figures["sampling"] = sampling(setting, max(2, rounds // 4), best)
    show(f"{setting.steps} Euler steps of {setting.batch} images", figures["sampling"]["rows"])
    for name, error in figures["sampling"]["error_against_double_precision"].items():
        print(f"{name:24} is {error:.2g} of the way from double precision")
    print(f"they agree within rounding: {figures['sampling']['agree_within_rounding']}")
    return figures


def release(device: str) -> None:
    """Free what the contenders before held."""
    torch.compiler.reset()
    gc.collect()
    if device != "cpu":
        torch.cuda.empty_cache()


def show(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    head = f"{'ratio':>8}{'quartiles':>16}{'ms':>10}{'images/s':>10}{'of peak':>9}{'GiB':>7}{'waits':>7}"
    print(f"\n{title}\n{'':24}{head}")
    for name, row in rows.items():
        low, high = row["quartiles"]
        memory = "-" if row["peak_memory_bytes"] is None else f"{row['peak_memory_bytes'] / 2**30:.1f}"
        times = "-" if row["waits"] is None else str(row["waits"])
        print(
            f"{name:24}{row['ratio']:8.3f}{f'{low:.3f}-{high:.3f}':>16}{row['seconds'] * 1e3:10.1f}"
            f"{row['images_per_second']:10.4g}{row['share_of_peak']:9.1%}{memory:>7}{times:>7}"
        )


def parsed(arguments: list[str] | None = None) -> argparse.Namespace:
    default, gpu = Setting(), torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", default=default.size, help="S, B, L or XL, a slash and the side of a patch")
    parser.add_argument("--image", type=int, default=default.image, help="height and width")
    parser.add_argument("--channels", type=int, default=default.channels)
    parser.add_argument("--batch", type=int, default=default.batch)
    parser.add_argument("--steps", type=int, default=default.steps, help="Euler steps of a sample")
    parser.add_argument("--precision", choices=list(DTYPES), default=default.precision)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="the default on a GPU")
    parser.add_argument("--device", choices=list(SIDES), default="cuda" if gpu else "cpu")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--out", type=Path, help="a file for the figures")
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not gpu:
        parser.error("torch finds no GPU; use --device cpu")
    if given.rounds < 2:
        parser.error(f"--rounds must be at least 2; got {given.rounds}")
    if given.compile is None:
        given.compile = given.device == "cuda"
    return given


def setting_of(given: argparse.Namespace) -> Setting:
    return Setting(**{name: getattr(given, name) for name in asdict(Setting())})


def main() -> None:
    given = parsed()
    if given.device == "cpu":
        torch.set_num_threads(1)
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    figures = measured(setting_of(given), given.rounds)
    if given.out is not None:
        given.out.write_text(json.dumps({**description(), **figures}, indent=2) + "\n")
    if given.save:
        print(save("transformer", figures))


if __name__ == "__main__":
    main()
