import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from interpolants import Linear, Regression
from interpolants.networks import Heads, adapt


class Recorder(nn.Module):
    """Answers with ``answer(x)`` and remembers how it was called."""

    def __init__(self, answer=lambda x: 2 * x):
        super().__init__()
        self.answer = answer
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, *args, **kwargs):
        self.args, self.kwargs = args, kwargs
        return self.answer(kwargs["sample"] if "sample" in kwargs else args[0])


@dataclass
class Output:
    sample: torch.Tensor


@pytest.fixture
def given(generator):
    return torch.tensor([0.0, 0.25, 1.0]), torch.randn(3, 2, 4, 4, generator=generator)


def test_the_order_of_the_arguments_is_the_modules(given):
    t, x = given
    for order, expected in {"xt": (x, t), "tx": (t, x)}.items():
        module = Recorder(lambda y: x)
        assert torch.equal(adapt(module, order)(t, x), x)
        assert len(module.args) == 2
        assert all(torch.equal(a, b) for a, b in zip(module.args, expected, strict=True))
        assert module.kwargs == {}


def test_x_comes_first_by_default(given):
    t, x = given
    module = Recorder()
    assert torch.equal(adapt(module)(t, x), 2 * x)
    assert torch.equal(module.args[1], t)


@pytest.mark.parametrize("shape", [(3, 2), (3, 2, 5), (3, 2, 4, 4)])
def test_a_module_of_x_alone_gets_time_as_the_last_channel(shape, generator):
    t, x = torch.tensor([0.0, 0.25, 1.0]), torch.randn(shape, dtype=torch.float64, generator=generator)
    module = Recorder(lambda y: y[:, :2])
    assert torch.equal(adapt(module, "x")(t, x), x)
    (seen,) = module.args
    assert seen.shape == (3, 3, *shape[2:])
    assert seen.dtype == torch.float64
    for i in range(3):
        assert torch.equal(seen[i, 2], torch.full(shape[2:], t[i], dtype=torch.float64))


def test_arguments_are_passed_by_the_names_given(given):
    t, x = given
    module = Recorder()
    adapt(module, rename={"t": "time", "label": "class_labels"})(t, x, label=7, scale=3)
    assert torch.equal(module.args[0], x)
    assert len(module.args) == 1
    assert torch.equal(module.kwargs.pop("time"), t)
    assert module.kwargs == {"class_labels": 7, "scale": 3}
    adapt(module, rename={"t": "timestep", "x": "sample"})(t, x)
    assert module.args == ()
    assert torch.equal(module.kwargs["sample"], x)
    assert torch.equal(module.kwargs["timestep"], t)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.0, 0.25, 1.0]),
        ({"reverse": True}, [1.0, 0.75, 0.0]),
        ({"times": 1000}, [0.0, 249.75, 999.0]),
        ({"times": 1000, "reverse": True}, [999.0, 749.25, 0.0]),
        ({"times": 1000, "integers": True}, [0, 250, 999]),
        ({"times": 5, "integers": True, "reverse": True}, [4, 3, 0]),
        ({"times": lambda t: 10 * t + 1}, [1.0, 3.5, 11.0]),
        ({"times": lambda t: 10 * t + 1, "reverse": True}, [11.0, 8.5, 1.0]),
    ],
    ids=[
        "t",
        "reverse",
        "steps",
        "steps-reverse",
        "integers",
        "integers-reverse",
        "function",
        "function-reverse",
    ],
)
def test_time_is_what_the_module_knows_as_time(given, options, expected):
    t, x = given
    module = Recorder()
    adapt(module, **options)(t, x)
    # Exact: quarters and their products with whole numbers.
    assert torch.equal(module.args[1], torch.tensor(expected))


@pytest.mark.parametrize(
    ("answer", "output"),
    [
        (lambda x: (0, 2 * x), 1),
        (lambda x: [2 * x], 0),
        (lambda x: {"sample": 2 * x}, "sample"),
        (lambda x: {0: 2 * x}, 0),
        (lambda x: Output(2 * x), "sample"),
    ],
    ids=["tuple", "list", "name", "key", "attribute"],
)
def test_the_answer_is_taken_out_of_what_holds_it(given, answer, output):
    t, x = given
    assert torch.equal(adapt(Recorder(answer), output=output)(t, x), 2 * x)


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        (lambda x: {"sample": x}, "eps", "part of the module's answer, dict of sample; got 'eps'"),
        (lambda x: (x,), 1, "part of the module's answer, tuple of 1; got 1"),
        (lambda x: Output(x), "eps", "part of the module's answer, Output; got 'eps'"),
        (lambda x: Output(x), 0, "part of the module's answer, Output; got 0"),
    ],
    ids=["key", "place", "attribute", "no places"],
)
def test_a_part_that_is_not_there_is_refused(given, answer, output, message):
    with pytest.raises(ValueError, match=message):
        adapt(Recorder(answer), output=output)(*given)


@pytest.mark.parametrize(
    ("answer", "output", "message"),
    [
        (lambda x: {"sample": x}, None, "got dict of sample; name the part of it that is, as output"),
        (lambda x: (x, x), None, "got tuple of 2; name"),
        (Output, None, "got Output; name"),
        (lambda x: {"sample": 1.0}, "sample", "must answer with a tensor; got float$"),
    ],
    ids=["dict", "tuple", "object", "part"],
)
def test_an_answer_that_is_no_tensor_is_refused(given, answer, output, message):
    with pytest.raises(TypeError, match=message):
        adapt(Recorder(answer), output=output)(*given)


def test_an_answer_of_another_shape_is_refused(given):
    with pytest.raises(ValueError, match=r"shape \(3, 2, 4, 4\) to x of shape.*got \(3, 1, 4, 4\)"):
        adapt(Recorder(lambda x: x[:, :1]))(*given)
    with pytest.raises(ValueError, match=r"shape \(3, 6, 4, 4\) to x of shape \(3, 2, 4, 4\).*got \(3, 4"):
        adapt(Recorder(lambda x: torch.cat([x, x], dim=1)), heads=3)(*given)


def test_it_can_have_heads(given):
    t, x = given
    network = Heads(adapt(Recorder(lambda x: torch.cat([x, 3 * x], dim=1)), heads=2))
    assert torch.equal(network(t, x)["denoiser"], 3 * x)


def test_the_module_is_registered():
    module = Recorder(nn.Identity())
    network = adapt(module, times=1000, rename={"t": "time"})
    assert [id(p) for p in network.parameters()] == [id(module.weight)]
    assert list(network.state_dict()) == ["module.weight"]
    assert not network.eval().module.training
    assert isinstance(pickle.loads(pickle.dumps(network)).module, Recorder)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": "yt"}, "order must be one of xt, tx, x; got 'yt'"),
        ({"order": "t"}, "order must be one of"),
        ({"order": "x", "rename": {"t": "time"}}, "is passed no t"),
        ({"times": 1}, "times must be at least 2 timesteps; got 1"),
        ({"integers": True}, "integers needs a number of timesteps"),
        ({"integers": True, "times": torch.sqrt}, "integers needs a number of timesteps"),
        ({"rename": {"t": "y", "label": "y"}}, "a name of its own"),
        ({"heads": 0}, "heads must be at least 1; got 0"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_arguments_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        adapt(Recorder(), **options)


def test_what_is_no_module_is_refused():
    with pytest.raises(TypeError, match=r"module must be a Module.*got function"):
        adapt(lambda x, t: x)


def unet_of_diffusers(**options):
    diffusers = pytest.importorskip("diffusers", reason="adapts the U-Net of diffusers")
    torch.manual_seed(0)
    return diffusers.UNet2DModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        attention_head_dim=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **options,
    )


def test_the_unet_of_diffusers_is_called_as_by_iadb(generator):
    model = unet_of_diffusers()
    network = adapt(model, output="sample")
    t, x = torch.rand(3, generator=generator), torch.randn(3, 2, 8, 8, generator=generator)
    assert torch.equal(network(t, x), model(x, t)["sample"])
    reversed_steps = adapt(model, output="sample", times=1000, integers=True, reverse=True)
    expected = model(x, (999 - 999 * t).round().long()).sample
    # 1 - t is rounded once more here.
    torch.testing.assert_close(reversed_steps(t, x), expected, rtol=1e-5, atol=1e-6)


def test_the_unet_of_diffusers_takes_our_labels(generator):
    model = unet_of_diffusers(num_class_embeds=5)
    network = adapt(model, output="sample", rename={"label": "class_labels"})
    t, x = torch.rand(3, generator=generator), torch.randn(3, 2, 8, 8, generator=generator)
    label = torch.tensor([0, 4, 2])
    assert torch.equal(network(t, x, label=label), model(x, t, class_labels=label).sample)
    assert not torch.equal(network(t, x, label=label), network(t, x, label=label.flip(0)))


def test_the_unet_of_diffusers_learns(generator):
    network = adapt(unet_of_diffusers(), output="sample", times=1000)
    x0, x1 = torch.randn(2, 3, 2, 8, 8, generator=generator)
    Regression(Linear())(network, x0, x1, generator=generator).backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
