import math
import pickle

import pytest
import torch
from image_cases import images, moved, transformer, unet
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from interpolants._tensors import exact_divergence
from interpolants.networks import Heads
from interpolants.networks._layers import Condition, waves

LABELS = torch.tensor([0, 6, 3, 7, 3])  # 7 is the null label.


@pytest.fixture(params=[unet, transformer])
def build(request):
    return request.param


def vector(network):
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def test_an_untrained_network_answers_zero(build):
    t, x = images(dtype=torch.float32)
    answer = build(classes=7)(t, x, label=LABELS)
    assert torch.equal(answer, torch.zeros_like(x))


def test_the_answer_has_the_size_of_x_and_the_channels_asked_for(build):
    t, x = images(dtype=torch.float32)
    assert build()(t, x).shape == (5, 3, 4, 6)
    assert build(out_channels=8)(t, x).shape == (5, 8, 4, 6)


def test_examples_do_not_see_each_other(build):
    network = moved(build(classes=7)).double().eval()
    t, x = images()
    together = network(t, x, label=LABELS)
    order = torch.tensor([3, 0, 4, 1, 2])
    alone = [network(t[i : i + 1], x[i : i + 1], label=LABELS[i : i + 1]) for i in range(5)]
    # Rounding: sums over a batch of another size run in another order.
    torch.testing.assert_close(torch.cat(alone), together, rtol=1e-9, atol=1e-12)
    permuted = network(t[order], x[order], label=LABELS[order])
    torch.testing.assert_close(permuted, together[order], rtol=1e-9, atol=1e-12)


def test_time_reaches_the_answer_as_finely_as_single_precision_tells_it(build):
    network = moved(build())
    _, x = images(1, dtype=torch.float32)
    for dtype in (torch.float32, torch.bfloat16):
        network = network.to(dtype)
        t = torch.tensor([0.998, 1.0])
        near, end = network(t, x.expand(2, -1, -1, -1).to(dtype))
        # Two steps of 1000: bfloat16 itself rounds 0.998 to 1.
        assert (near - end).abs().max() > 1e-3


def test_label_reaches_the_answer(build):
    network = moved(build(classes=7)).eval()
    t, x = images(1, dtype=torch.float32)
    answers = [network(t, x, label=torch.tensor([label])) for label in range(8)]
    for i, answer in enumerate(answers):
        for other in answers[:i]:
            assert (answer - other).abs().max() > 1e-3


def test_no_label_means_the_null_label(build):
    network = moved(build(classes=7))
    t, x = images(dtype=torch.float32)
    assert network.null_label == 7
    for mode in (True, False):
        network.train(mode)
        expected = network(t, x, label=torch.full((5,), 7))
        assert torch.equal(network(t, x), expected)
        assert torch.equal(network(t, x, label=None), expected)


def test_a_dropped_label_is_the_null_label_and_evaluation_drops_none(build):
    network = moved(build(classes=7, class_dropout=1.0))
    t, x = images(dtype=torch.float32)
    without = network(t, x)
    assert torch.equal(network.train()(t, x, label=LABELS), without)
    evaluated = network.eval()(t, x, label=LABELS)
    assert torch.equal(evaluated[3], without[3])
    for i in (0, 1, 2, 4):
        assert not torch.equal(evaluated[i], without[i])


def test_labels_are_dropped_as_often_as_asked_for_each_for_itself():
    n, p = 20_000, 0.1
    condition = Condition(4, 1, p)
    with torch.no_grad():
        condition.table.weight.copy_(torch.tensor([[0.0], [1.0]]).expand(2, 4))
        condition.last.weight.zero_()
        condition.last.bias.zero_()
    torch.manual_seed(0)
    label = torch.zeros(n, dtype=torch.int64)
    first, second = (condition(torch.zeros(n), label)[:, 0].detach() for _ in range(2))
    # Each label is dropped or kept, so the count is binomial: six standard deviations are exceeded less than
    # once in ten million, by Chernoff's bound too (2 exp(-6**2 / 2 * 0.93) = 1.1e-7).
    assert abs(first.sum() - n * p) < 6 * math.sqrt(n * p * (1 - p))
    # Two calls draw anew: both drop a label with probability p**2.
    assert abs((first * second).sum() - n * p**2) < 6 * math.sqrt(n * p**2 * (1 - p**2))
    assert torch.equal(label, torch.zeros(n, dtype=torch.int64))


def test_labels_are_dropped_by_the_global_generator(build):
    network = moved(build(classes=7, class_dropout=0.5))
    t, x = images(dtype=torch.float32)

    def answer(seed):
        torch.manual_seed(seed)
        return network(t, x, label=LABELS)

    assert torch.equal(answer(0), answer(0))
    # Four labels that can be dropped: eleven seeds agree once in 16**10.
    assert any(not torch.equal(answer(0), answer(seed)) for seed in range(1, 11))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32])
def test_the_kind_of_a_label_is_checked(build, dtype):
    t, x = images(dtype=torch.float32)
    network = moved(build(classes=7)).eval()
    if dtype == torch.int32:
        assert torch.equal(network(t, x, label=LABELS.to(dtype)), network(t, x, label=LABELS))
    else:
        with pytest.raises(TypeError, match=r"label must hold integers.*got torch\.float32"):
            network(t, x, label=LABELS.to(dtype))


@pytest.mark.parametrize("shape", [(), (4,), (5, 1)])
def test_labels_of_another_shape_are_refused(build, shape):
    t, x = images(dtype=torch.float32)
    with pytest.raises(ValueError, match=r"one class per example, shape \(5,\)"):
        build(classes=7)(t, x, label=torch.zeros(shape, dtype=torch.int64))


def test_a_network_without_classes_refuses_a_label(build):
    t, x = images(dtype=torch.float32)
    network = build()
    assert network.null_label is None
    network(t, x, label=None)
    with pytest.raises(ValueError, match="no classes, so label must be None"):
        network(t, x, label=LABELS)


@pytest.mark.parametrize("shape", [(5, 3, 4), (5, 2, 4, 6), (5, 4, 6, 3), (3,)])
def test_x_of_another_shape_is_refused(build, shape):
    with pytest.raises(ValueError, match=r"x of shape \(B, 3, H, W\); got"):
        build()(torch.zeros(5), torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (4,), (5, 1)])
def test_times_of_another_shape_are_refused(build, shape):
    with pytest.raises(ValueError, match=r"one time per example, shape \(5,\); got"):
        build()(torch.zeros(shape), torch.zeros(5, 3, 4, 6))


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"heads": 0},
        {"out_channels": 0},
        {"classes": 0},
        {"class_dropout": 1.1},
        {"class_dropout": -0.1},
    ],
)
def test_sizes_out_of_range_are_refused(build, options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must (be at least 1|lie in)"):
        build(**options)


def test_initial_weights_are_reproduced_by_the_generator_and_leave_the_global_one_alone(build):
    def draw(seed):
        return vector(build(classes=7, generator=torch.Generator().manual_seed(seed)))

    state = torch.get_rng_state()
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))
    assert torch.equal(state, torch.get_rng_state())


def test_initial_weights_come_from_the_global_generator_by_default(build):
    def draw(seed):
        torch.manual_seed(seed)
        return vector(build(classes=7, generator=None))

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_every_parameter_has_a_gradient(build):
    network = moved(build(classes=7)).double()
    t, x = images()
    network(t, x, label=LABELS).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_gradients_are_those_of_finite_differences(build):
    network = moved(build(classes=7, class_dropout=0.0)).double()
    t, x = images(2)
    x.requires_grad_(), t.requires_grad_()

    def answer(t, x):
        return network(t / 100, x, label=LABELS[:2])

    # torch's defaults for double precision; the time is slowed down, because its embedding turns 1000 t.
    assert torch.autograd.gradcheck(answer, (t, x), fast_mode=True)


def test_the_divergence_along_the_flow_can_be_taken(build):
    network = moved(build()).double()
    t, x = images(2, height=4, width=6)
    step = 1e-6
    _, divergence = exact_divergence(lambda y: network(t, y), x)
    expected = torch.zeros(2, dtype=torch.float64)
    for direction in torch.eye(72, dtype=torch.float64).reshape(72, 1, 3, 4, 6):
        with torch.no_grad():
            change = network(t, x + step * direction) - network(t, x - step * direction)
        expected += (change * direction).flatten(1).sum(1) / (2 * step)
    # Central differences: rounding of 1e-16 over 1e-6, 72 times.
    torch.testing.assert_close(divergence, expected, rtol=1e-6, atol=1e-7)


def test_second_and_forward_derivatives_exist_where_torch_has_them(build):
    network = moved(build()).double()
    t, x = images(2)
    x.requires_grad_()
    with sdpa_kernel(SDPBackend.MATH):
        answer, tangent = torch.func.jvp(lambda y: network(t, y), (x.detach(),), (torch.ones_like(x),))
        (gradient,) = torch.autograd.grad(network(t, x).square().sum() / 2, x, create_graph=True)
        (second,) = torch.autograd.grad(gradient.sum(), network.last.bias)
    # Along a direction, the gradient of half the square has the answer times the derivative.
    torch.testing.assert_close(gradient.sum(), (answer * tangent).sum())
    assert second.abs().max() > 0


def test_attention_takes_the_fast_kernels(build):
    t, x = images(dtype=torch.float32)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        build()(t, x)


def test_double_precision_is_kept(build):
    network = moved(build(classes=7)).double().eval()
    t, x = images()
    answer = network(t, x, label=LABELS)
    assert answer.dtype == torch.float64
    single = network.float()(t.float(), x.float(), label=LABELS)
    # Single precision, through some twenty layers.
    torch.testing.assert_close(single.double(), answer, rtol=1e-3, atol=1e-3)


def test_times_may_be_of_another_precision_than_x(build):
    network = moved(build())
    t, x = images(dtype=torch.float32)
    torch.testing.assert_close(network(t.double(), x), network(t, x), rtol=1e-3, atol=1e-3)
    assert network.double()(t, x.double()).dtype == torch.float64


@pytest.mark.parametrize("way", ["autocast", "weights"])
def test_bfloat16_stays_near_single_precision(build, way):
    network = moved(build(classes=7)).eval()
    t, x = images(dtype=torch.float32)
    expected = network(t, x, label=LABELS)
    if way == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            answer = network(t, x, label=LABELS)
    else:
        answer = network.to(torch.bfloat16)(t, x.to(torch.bfloat16), label=LABELS)
    assert answer.dtype == torch.bfloat16
    # Each rounding is of 2**-9 relative; some twenty layers add their own, most of them of random sign.
    assert (answer - expected).square().mean().sqrt() < 0.03 * expected.square().mean().sqrt()


def compiled_and_plain(network, backend, *given):
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    answers = []
    for function in (compiled, network):
        torch.manual_seed(0)
        answers.append(function(*given, label=LABELS))
    return answers


def test_it_compiles_as_one_graph(build):
    network = moved(build(classes=7))
    t, x = images(dtype=torch.float32)
    # The time in double precision, as a sampler may hand it over.
    answer, expected = compiled_and_plain(network, "eager", t.double(), x)
    torch.testing.assert_close(answer, expected)


def test_its_backward_pass_compiles():
    network = moved(transformer(classes=7, depth=1))
    answers = compiled_and_plain(network, "aot_eager", *images(dtype=torch.float32))
    gradients = [torch.autograd.grad(answer.sum(), [*network.parameters()]) for answer in answers]
    for compiled, plain in zip(*gradients, strict=True):
        # Single precision, in another order of operations.
        assert (compiled - plain).norm() <= 1e-4 * plain.norm()


def test_channels_last_gives_the_same_answer(build):
    network = moved(build()).double()
    t, x = images()
    expected = network(t, x)
    network = network.to(memory_format=torch.channels_last)
    answer = network(t, x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(answer, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labelled", [True, False])
def test_one_network_has_two_heads(build, labelled):
    network = moved(build(out_channels=6, classes=7)).eval()
    t, x = images(dtype=torch.float32)
    conditions = {"label": LABELS} if labelled else {}
    heads = Heads(network, ("velocity", "denoiser"))(t, x, **conditions)
    answer = network(t, x, **conditions)
    assert torch.equal(heads["velocity"], answer[:, :3])
    assert torch.equal(heads["denoiser"], answer[:, 3:])


def test_a_network_is_restored_from_its_state_and_by_pickle(build):
    network, other = moved(build(classes=7)).eval(), moved(build(classes=7), seed=1).eval()
    t, x = images(dtype=torch.float32)
    expected = network(t, x, label=LABELS)
    other.load_state_dict(network.state_dict())
    assert torch.equal(other(t, x, label=LABELS), expected)
    assert torch.equal(pickle.loads(pickle.dumps(network))(t, x, label=LABELS), expected)


def test_there_may_be_no_examples(build):
    t, x = images(0, dtype=torch.float32)
    assert build(classes=7)(t, x).shape == (0, 3, 4, 6)


def test_a_network_can_be_built_without_memory_for_its_weights(build):
    with torch.device("meta"):
        network = build(classes=7, generator=None)
    assert all(parameter.is_meta for parameter in network.parameters())
    assert all(buffer.is_meta for buffer in network.buffers())


def test_waves_are_sines_and_cosines_of_slower_and_slower_turns():
    position = torch.tensor([0.0, 1.0, 250.5], dtype=torch.float64)
    expected = [
        [f(p / 10_000 ** (k / 3)) for f in (math.sin, math.cos) for k in range(3)] for p in position.tolist()
    ]
    torch.testing.assert_close(waves(position, 6), torch.tensor(expected, dtype=torch.float64))


def test_time_is_embedded_as_a_thousand_timesteps():
    condition = Condition(5, None, 0.0).double()
    generator = torch.Generator().manual_seed(0)
    for parameter in condition.parameters():  # The whole network draws them, so here they hold anything.
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    t = torch.tensor([0.3, 0.9], dtype=torch.float64)
    first = condition.first(waves(torch.tensor([300.0, 900.0], dtype=torch.float64), 256))
    torch.testing.assert_close(condition(t, None), condition.last(first * torch.sigmoid(first)))
