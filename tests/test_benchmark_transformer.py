import itertools
import json
import sys
import time
import warnings

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

pytest.importorskip("accelerate", reason="the benchmark trains through it")

from benchmarks import transformer
from benchmarks.transformer import Setting
from interpolants import Linear, Regression
from interpolants.losses import Draw
from interpolants.networks import Transformer

TINY = Setting("tiny/4", 8, 3, batch=4, steps=3, precision="no", compile=False, device="cpu")
NUMBERS = ["ratio", "seconds", "images_per_second", "share_of_peak", "first_call_seconds"]


def tiny(name="tiny/4", channels=3, size=8, **options):
    return Transformer(channels, size, patch=4, width=16, depth=2, heads=2, **options)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def small(monkeypatch):
    """No published size is small enough for a test."""
    monkeypatch.setattr(Transformer, "named", tiny)
    monkeypatch.setitem(transformer.SIDES, "cpu", (4, 8))
    monkeypatch.setitem(transformer.BLOCK_SECONDS, "cpu", 1e-3)


# -------------------------------------------------------------------------------- operations, time and memory


@pytest.mark.parametrize(
    "network",
    [
        tiny(),
        tiny(size=(8, 12), out_channels=5),
        Transformer(1, 6, patch=2, width=24, depth=3, heads=3),
        Transformer(2, 4, patch=4, width=8, depth=1, heads=1),
    ],
    ids=["square", "oblong", "deeper", "one token"],
)
def test_operations_are_those_that_torch_counts(network):
    x = torch.randn(3, network.channels, *network.size)
    # Attention spelt out: the fast kernel computes one product twice, which torch counts.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        answer = network(torch.rand(3), x)
    with FlopCounterMode(display=False) as backward:
        answer.sum().backward()
    assert forward.get_total_flops() == 3 * transformer.forward_flops(network)
    both = forward.get_total_flops() + backward.get_total_flops()
    assert both == 3 * transformer.training_flops(network)


@pytest.mark.parametrize(
    ("name", "billions"), [("S/2", 6.06), ("B/2", 23.01), ("B/4", 5.56), ("L/2", 80.71), ("XL/2", 118.64)]
)
def test_multiply_adds_are_those_published(name, billions):
    # Peebles and Xie, arXiv 2212.09748, Table 4: twice our output channels. They count normalisations too.
    with torch.device("meta"):
        network = Transformer.named(name, 4, 32, out_channels=8)
    assert transformer.forward_flops(network) / 2e9 == pytest.approx(billions, rel=1e-3)


def test_time_on_a_processor_is_that_of_the_clock():
    assert 0.02 <= transformer.seconds(lambda: time.sleep(0.02), "cpu") < 2


def test_time_on_a_gpu_is_between_events_and_nothing_is_left_running(monkeypatch):
    happened = []

    class Event:
        def __init__(self, enable_timing):
            self.timed = enable_timing

        def record(self):
            happened.append("record")

        def elapsed_time(self, other):
            assert self.timed
            assert other.timed
            return 250.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: happened.append("synchronize"))
    assert transformer.seconds(lambda: happened.append("work"), "cuda") == 0.25
    assert happened == ["synchronize", "record", "work", "record", "synchronize"]


@pytest.fixture
def gpu(monkeypatch):
    """What is asked of a GPU, without one: its modes, and memory that the test allocates."""
    state = {"mode": ["default"], "now": 100, "peak": 100}

    def set_mode(mode):
        state["mode"].append(mode)
        if mode != "default":
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", set_mode)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: state["now"])
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: state["peak"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: state.update(peak=state["now"]))
    return state


def wait_for_gpu():
    warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)


def test_waits_are_counted_each_time_and_nothing_else_is(gpu):
    def work():
        for _ in range(3):
            wait_for_gpu()
        warnings.warn("something else", stacklevel=1)

    assert transformer.waits(work) == 3
    assert gpu["mode"] == ["default", "warn", "default"]


def test_the_mode_that_counts_waits_is_left_when_the_work_fails(gpu):
    with pytest.raises(ZeroDivisionError):
        transformer.waits(lambda: 1 / 0)
    assert gpu["mode"][-1] == "default"


def test_memory_is_what_a_contender_keeps_and_needs_after_its_first_call(gpu, monkeypatch):
    monkeypatch.setattr(transformer, "seconds", lambda work, device: work() or 7.0)
    needs = iter([1000, 20, 30, 40])

    def work():
        gpu["peak"] = max(gpu["peak"], gpu["now"] + next(needs))
        if gpu["mode"][-1] == "warn":
            wait_for_gpu()

    def make():
        gpu["now"] += 5
        return work

    made, costs = transformer.ready(make, "cuda")
    assert made is work
    assert costs == {"first_call_seconds": 7.0, "peak_memory_bytes": 35, "waits": 1}


def test_a_processor_is_asked_for_one_call_before_the_clock():
    calls = []
    _, costs = transformer.ready(lambda: lambda: calls.append(0), "cpu")
    assert len(calls) == 1
    assert costs["peak_memory_bytes"] is costs["waits"] is None


@pytest.mark.parametrize(
    ("precision", "dtype"), [("no", torch.float32), ("bf16", torch.bfloat16)], ids=["no", "bf16"]
)
def test_the_peak_is_the_rate_of_the_quickest_product(precision, dtype, small, monkeypatch):
    slowness = itertools.cycle([3.0, 1.0, 2.0])
    multiply, seen = torch.mm, set()

    def recorded(a, b, **options):
        seen.update({a.dtype, b.dtype})
        return multiply(a, b, **options)

    def counted(work, device):
        # A device of 1e9 operations per second at its best.
        with FlopCounterMode(display=False) as counter:
            work()
        return next(slowness) * counter.get_total_flops() / 1e9

    monkeypatch.setattr(torch, "mm", recorded)
    monkeypatch.setattr(transformer, "seconds", counted)
    # A few roundings of double precision.
    assert transformer.peak(precision, "cpu", 3) == pytest.approx(1e9, rel=1e-12)
    assert seen == {dtype}


@pytest.mark.parametrize("sides", [(4, 8), (8, 4)], ids=["last", "first"])
def test_the_peak_is_that_of_the_better_size(sides, monkeypatch):
    monkeypatch.setitem(transformer.SIDES, "cpu", sides)
    # The same time whatever the size: the largest matrices have the highest rate.
    monkeypatch.setattr(transformer, "seconds", lambda work, device: work() or 2.0)
    assert transformer.peak("no", "cpu", 2) == transformer.PRODUCTS * 2 * 8**3 / 2


def test_contenders_are_compared_within_rounds_and_in_turns(monkeypatch):
    order, clock = [], {"now": 0.0}
    costs = {"a": 1.0, "b": 3.0, "c": 0.5}

    def contender(name):
        def work():
            order.append(name)
            # Every round is slower than the one before: only ratios within one are fair.
            clock["now"] += costs[name] * (1 + (len(order) - 1) // 6)

        return work

    def passed(work, device):
        before = clock["now"]
        work()
        return clock["now"] - before

    monkeypatch.setattr(transformer, "seconds", passed)
    figures = transformer.compare({name: contender(name) for name in costs}, 2, 3, "cpu")
    assert {name: row["ratio"] for name, row in figures.items()} == costs
    assert {name: row["quartiles"] for name, row in figures.items()} == {n: [c, c] for n, c in costs.items()}
    # The second of three rounds, in which everything takes twice as long.
    assert {name: row["seconds"] for name, row in figures.items()} == {n: 2 * c for n, c in costs.items()}
    assert "".join(order) == "aabbcc" + "bbccaa" + "ccaabb"


# ----------------------------------------------------------------------------------------------- the training


def test_every_weight_moves_the_answer(small):
    network = TINY.network()
    network(torch.rand(2), torch.randn(2, 3, 8, 8)).square().sum().backward()
    still = [name for name, p in network.named_parameters() if not p.grad.abs().max() > 0]
    assert still == []


def test_an_error_of_the_blocks_would_show_in_the_answer(small):
    network, t, x = TINY.network(), torch.rand(4), torch.randn(4, 3, 8, 8)
    answer = network(t, x)
    network.blocks = nn.ModuleList()
    alone = network(t, x)
    # 0.2 for three seeds; 0.0003 when the blocks' gates start at 0.
    assert (answer - alone).norm() > 0.05 * alone.norm()


def test_the_loss_by_hand_is_the_library_s(small):
    network = TINY.network()
    t, x0, x1 = torch.rand(5), torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8)
    found = transformer.loss_by_hand(network, TINY)(t, x0, x1)
    expected = Regression(Linear()).evaluate(network, Draw(t, x0, x1, None)).mean()
    # Sums of a thousand numbers in single precision, in another order.
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_low_precision_is_that_of_the_products_and_not_of_the_loss(small):
    seen = []

    def network(t, x):
        seen.append(torch.mm(x.flatten(1), x.flatten(1).T).dtype)
        return x

    low = Setting(**{**vars(TINY), "precision": "bf16"})
    x0, x1 = torch.randn(2, 3, 8, 8), torch.randn(2, 3, 8, 8)
    assert transformer.loss_by_hand(network, low)(torch.rand(2), x0, x1).dtype == torch.float32
    transformer.loss_by_hand(network, TINY)(torch.rand(2), x0, x1)
    transformer.sampled(lambda t, x: network(t, x), x0, low)
    assert seen == [torch.bfloat16, torch.float32, *[torch.bfloat16] * 3]


@pytest.mark.parametrize("compiled", [False, True])
def test_the_loop_by_hand_makes_the_steps_of_the_trainer(compiled, monkeypatch):
    how = []
    monkeypatch.setattr(torch, "compile", lambda call, **options: how.append(options) or call)
    monkeypatch.setattr(torch, "rand", lambda n, device: torch.full((n,), 0.25, device=device))
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda t, *ends, generator: t.fill_(0.25))
    setting = Setting(**{**vars(TINY), "compile": compiled})
    weights = []
    for maker in (transformer.by_hand, transformer.by_trainer):
        torch.manual_seed(1)
        network = transformer.as_if_trained(tiny())
        monkeypatch.setattr(Setting, "network", lambda self, network=network: network)
        # Rows all alike, so that it does not matter which are drawn.
        x0s, x1s = (torch.randn(1, 3, 8, 8).expand(9, -1, -1, -1) for _ in range(2))
        step = maker(setting, x0s, x1s)
        for _ in range(3):
            step()
        weights.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    moved = weights[0] - torch.cat([p.flatten() for p in _as_drawn().parameters()])
    assert moved.abs().max() > 2e-4
    # Three steps of 1e-4, whose size follows the sign of gradients that may be roundings of 0.
    assert (weights[0] - weights[1]).norm() < 1e-2 * moved.norm()
    assert len(how) == (2 if compiled else 0)


def _as_drawn():
    torch.manual_seed(1)
    return transformer.as_if_trained(tiny()).requires_grad_(False)


def test_a_step_of_either_is_of_new_points_and_times(small):
    x0s, x1s = TINY.points(64), TINY.points(64)
    for maker in (transformer.by_hand, transformer.by_trainer):
        step = maker(TINY, x0s, x1s)
        losses = [getattr(made, "loss", made) for made in (step() for _ in range(3))]
        assert len({float(loss) for loss in losses}) == 3
        assert not losses[0].requires_grad


# ----------------------------------------------------------------------------------------------- the sampling


class Decay(nn.Module):
    """The velocity -c x, for which n Euler steps multiply by (1 - c / n)^n."""

    def __init__(self, rate):
        super().__init__()
        self.rate = nn.Parameter(torch.tensor(rate))

    def forward(self, t, x):
        return -self.rate * x


def test_samples_are_those_of_euler_steps_without_gradients():
    x = torch.randn(4, 3, 8, 8)
    found = transformer.sampled(Decay(1.5), x, TINY)
    # Three steps in single precision.
    torch.testing.assert_close(found, 0.125 * x, rtol=1e-5, atol=1e-6)
    assert not found.requires_grad


def test_errors_are_parts_of_the_way_in_double_precision():
    x = torch.randn(4, 3, 8, 8)
    exact = 0.125 * x.double()
    found = {"none": exact, "a tenth": exact + 0.0875 * x, "more rows": torch.cat([exact, x.double()])}
    apart = transformer.errors(found, Decay(1.5), x, TINY)
    # Points in single precision, on a way of 0.875 x.
    assert apart == pytest.approx({"none": 0, "a tenth": 0.1, "more rows": 0}, rel=1e-6, abs=1e-7)


def test_errors_are_measured_against_full_precision_whatever_that_of_the_samples(small):
    low = Setting(**{**vars(TINY), "precision": "bf16"})
    network, x = TINY.network(), TINY.points(4)
    found = {"low": transformer.sampled(network, x, low), "full": transformer.sampled(network, x, TINY)}
    apart = transformer.errors(found, network, x, low)
    # Numbers of 8 bits are 2e-3 from what they stand for on average, those of 24 bits 3e-8.
    assert 1e-4 < apart["low"] < 5e-2
    assert apart["full"] < 1e-5


@pytest.mark.parametrize("factor", [1.0, 1.001])
def test_a_compiled_network_that_answers_otherwise_is_found(factor, small, monkeypatch):
    how = []

    def compiled(network, **options):
        how.append(options)
        return lambda t, x: factor * network(t, x)

    monkeypatch.setattr(torch, "compile", compiled)
    setting = Setting(**{**vars(TINY), "compile": True})
    figures = transformer.sampling(setting, 2, 1e9)
    assert how == [{"mode": "reduce-overhead", "dynamic": False}]
    assert list(figures["rows"]) == ["eager", "eager again (noise)", "compiled"]
    assert figures["agree_within_rounding"] == (factor == 1)
    # The last row goes a thousandth too far.
    expected = pytest.approx(factor - 1, rel=0.1, abs=1e-5)
    assert figures["error_against_double_precision"]["compiled"] == expected


# ------------------------------------------------------------------------------------------------- the result


def test_the_whole_path_runs_on_a_processor(small, capsys):
    figures = transformer.measured(TINY, 2)
    assert json.loads(json.dumps(figures)) == figures
    best = figures["peak_flops_per_second"]
    network = tiny()
    assert figures["parameters"] == sum(p.numel() for p in network.parameters())
    parts = [
        (
            figures["training"],
            ["by hand", "by hand again (noise)", "Trainer"],
            figures["training_flops_per_image"],
        ),
        (figures["sampling"]["rows"], ["eager"], TINY.steps * figures["forward_flops_per_image"]),
    ]
    for rows, names, flops in parts:
        assert list(rows) == names
        for row in rows.values():
            assert all(row[number] > 0 for number in NUMBERS)
            assert row["images_per_second"] * row["seconds"] == pytest.approx(TINY.batch)
            assert row["share_of_peak"] * best == pytest.approx(row["images_per_second"] * flops)
    assert figures["sampling"]["agree_within_rounding"]
    printed = capsys.readouterr().out
    assert "a training step of 4 images" in printed
    assert "3 Euler steps of 4 images" in printed


def test_the_command_of_a_result_makes_it_again():
    setting = Setting("S/8", 16, 3, 4, 5, "no", compile=True, device="cpu")
    python, option, module, *options = setting.command(7).split()
    assert [python, option, module] == ["python", "-m", "benchmarks.transformer"]
    given = transformer.parsed(options)
    assert transformer.setting_of(given) == setting
    assert given.rounds == 7


@pytest.mark.parametrize(
    ("option", "compiled"), [([], False), (["--compile"], True), (["--no-compile"], False)]
)
def test_a_processor_compiles_only_when_asked(option, compiled):
    assert transformer.setting_of(transformer.parsed(["--device", "cpu", *option])).compile is compiled


def test_a_gpu_compiles_unless_told_otherwise(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert transformer.setting_of(transformer.parsed([])) == Setting()
    assert not transformer.setting_of(transformer.parsed(["--no-compile"])).compile


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--device", "cuda"], "torch finds no GPU"),
        (["--device", "cpu", "--rounds", "1"], "must be at least 2; got 1"),
    ],
    ids=["gpu", "rounds"],
)
def test_what_cannot_be_measured_is_said(options, reason, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        transformer.parsed(options)
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize("kept", [False, True])
def test_a_result_is_written_where_it_is_asked_for(kept, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(transformer, "measured", lambda setting, rounds: {"rounds": rounds})
    monkeypatch.setattr(transformer, "save", lambda name, figures: saved.append((name, figures)))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    out = tmp_path / "figures.json"
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "transformer.py",
            "--device",
            "cpu",
            "--rounds",
            "3",
            *(["--save"] if kept else ["--out", str(out)]),
        ],
    )
    transformer.main()
    assert saved == ([("transformer", {"rounds": 3})] if kept else [])
    assert out.exists() != kept
    if not kept:
        written = json.loads(out.read_text())
        assert written["rounds"] == 3
        assert written["torch"] == torch.__version__
