import dataclasses
import json

import pytest
import torch

from interpolants.config import (
    IMAGE_PRESETS,
    Config,
    ImageConfig,
    image_field_of,
    image_network_of,
    image_optimizer_of,
    image_sets_of,
    image_source_of,
    interpolant_of,
    schedule_of,
)
from interpolants.data import Glyphs
from interpolants.networks import Heads, Transformer

SHAPE = (1, 8, 8)


def test_every_preset_is_a_configuration_that_survives_json():
    for name, changed in IMAGE_PRESETS.items():
        data = {"data": "somewhere"} if name in ("folder", "npz", "torchvision") else {}
        config = ImageConfig(**changed, **data)
        assert config.images == name
        assert ImageConfig.from_json(config.to_json()) == config


def test_text_that_is_no_configuration_is_refused():
    for text in ("", "{", "[1]", '{"images": "digits", "colour": 1}', Config().to_json()):
        with pytest.raises(ValueError, match="not a configuration of this version"):
            ImageConfig.from_json(text)


def test_a_run_may_go_on_with_other_steps_and_records_but_not_with_another_network():
    first = ImageConfig()
    same = dataclasses.replace(
        first,
        steps=7,
        device="cuda",
        threads=3,
        workers=2,
        log_every=9,
        keep=1,
        picture_every=0,
        method="rk4",
    )
    assert first.differences(same) == []
    assert first.differences(dataclasses.replace(first, source="uniform", averages=())) == [
        "--source was normal and is uniform",
        "--averages was 0.999 and is nothing",
    ]
    other = dataclasses.replace(first, width=16, multipliers=(1, 2, 3), seed=5)
    assert first.differences(other) == [
        "--width was 32 and is 16",
        "--multipliers was 1 2 and is 1 2 3",
        "--seed was 0 and is 5",
    ]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"images": "cats"}, "unknown kind of images 'cats'; known: digits, glyphs"),
        ({"steps": 0}, "--steps must be at least 1; got 0"),
        ({"held_out": -1}, "--held-out must not be negative"),
        ({"learning_rate": 0.0}, "--learning-rate must be positive"),
        ({"averages": (0.9, 1.0)}, r"--averages must lie in \[0, 1\); got 1.0"),
        ({"averages": (0.9, 0.9)}, "--averages must be different; got 0.9 0.9"),
        ({"seed": -1}, "--seed must lie in"),
        ({"loss": "l2"}, "unknown loss 'l2'"),
        ({"decay": "linear"}, "unknown decay 'linear'; known: none, cosine"),
        ({"precision": "tf32"}, "unknown precision 'tf32'; known: no, bf16, fp16"),
        ({"network": "resnet"}, "unknown network 'resnet'; known: unet, transformer, S/2"),
        ({"source": "cats"}, "unknown source 'cats'; known: normal, uniform"),
        ({"source": "glyphs:x"}, "unknown source 'glyphs:x'"),
        ({"images": "folder"}, "name the folder with --data"),
        ({"data": "photos"}, "digits need no --data; got photos"),
        ({"batch_size": 10, "accumulate": 3}, "must be divisible by --accumulate; got 10 and 3"),
        ({"coupling": "ot"}, "unknown coupling 'ot'"),
        ({"learn": "all"}, "unknown --learn value 'all'"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        ImageConfig(**values)


def test_held_out_images_are_none_of_those_trained_on_and_the_same_for_every_seed():
    train, held_out = image_sets_of(ImageConfig(seed=1))
    again = image_sets_of(ImageConfig(seed=2))
    assert len(held_out) == 360
    assert torch.equal(held_out.index, again.held_out.index)
    assert not set(held_out.index.tolist()) & set(train.index.tolist())
    assert image_sets_of(ImageConfig(held_out=0)).held_out is None
    glyphs = image_sets_of(ImageConfig(images="glyphs", size=16, held_out=5))
    assert glyphs.train.items[-1] < glyphs.held_out.items[0]
    assert len(glyphs.held_out) == 5


def test_sets_that_do_not_fit_their_configuration_are_refused(tmp_path):
    import numpy as np

    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((9, 6, 4, 3), dtype=np.uint8))
    of_file = {"images": "npz", "data": str(path)}
    assert image_sets_of(ImageConfig(**of_file, size=0, channels=0, held_out=4)).train.shape == (3, 6, 4)
    for values, said in (
        ({"size": 0, "held_out": 5}, "--held-out must be at most half of the 9 images; got 5"),
        ({"size": 0, "held_out": 4, "channels": 1}, "--channels is 1 but the images have 3"),
        ({"size": 8, "held_out": 4, "channels": 0}, "--size is 8 but the images are 6 x 4"),
        (
            {"size": 0, "held_out": 4, "channels": 3, "conditional": True},
            "--conditional needs images with classes",
        ),
    ):
        with pytest.raises(ValueError, match=said):
            image_sets_of(ImageConfig(**of_file, **values))


def test_the_source_may_be_another_set_of_images():
    assert image_source_of(ImageConfig(), SHAPE) == "normal"
    threes = image_source_of(ImageConfig(source="digits:3"), SHAPE)
    assert threes.labels.unique().tolist() == [3]
    glyphs = image_source_of(ImageConfig(source="glyphs:7"), (1, 16, 16))
    # Another series than that of the targets.
    assert isinstance(glyphs, Glyphs)
    assert glyphs.seed != image_sets_of(ImageConfig(images="glyphs", size=16, held_out=5)).train.seed
    assert glyphs.batch(torch.arange(3))[1].tolist() == [7, 7, 7]
    with pytest.raises(
        ValueError, match=r"--source digits has images of shape \(1, 8, 8\), not \(1, 16, 16\)"
    ):
        image_source_of(ImageConfig(source="digits"), (1, 16, 16))


def test_networks_answer_for_every_head_and_class():
    x, t, label = torch.zeros(2, *SHAPE), torch.zeros(2), torch.tensor([0, 9])
    small = {"width": 8, "blocks": 1, "heads": 2}
    both = ImageConfig(**small, learn="both", gamma="brownian", conditional=True)
    network = image_network_of(both, SHAPE, 10)
    assert isinstance(network, Heads)
    assert {name: head.shape for name, head in network(t, x, label=label).items()} == {
        "velocity": x.shape,
        "denoiser": x.shape,
    }
    without = image_network_of(ImageConfig(**small), SHAPE, 10)
    with pytest.raises(ValueError, match="label"):
        without(t, x, label=label)
    tokens = image_network_of(ImageConfig(**small, network="transformer", patch=4), SHAPE, None)
    assert isinstance(tokens, Transformer)
    assert (tokens.patch, len(tokens.blocks)) == (4, 1)
    with pytest.raises(ValueError, match="need images divisible by 4; these are 10 x 10"):
        image_network_of(ImageConfig(multipliers=(1, 1, 1), attention=()), (1, 10, 10), None)
    with pytest.raises(ValueError, match="a slash and the patch; got 'M/2'"):
        image_network_of(ImageConfig(network="M/2"), SHAPE, None)


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_lie_channels_last_unless_they_are_shared_out(sharded):
    network = image_network_of(ImageConfig(width=8, blocks=1, sharded=sharded), SHAPE, None)
    assert all(p.is_contiguous() for p in network.parameters()) == sharded


def test_the_seed_decides_the_weights():
    def weights(seed):
        return image_network_of(ImageConfig(width=8, blocks=1, seed=seed), SHAPE, None).first.weight

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize(
    ("values", "gaussian"),
    [
        ({}, True),
        ({"source": "uniform"}, False),
        ({"coupling": "optimal-transport"}, False),
        ({"interpolant": "encoding-decoding"}, True),
    ],
)
def test_the_score_follows_only_from_an_independent_gaussian_source(values, gaussian):
    config = ImageConfig(**values)
    field = image_field_of(config, interpolant_of(config), torch.nn.Identity())
    assert field.gaussian_source == gaussian


def test_the_learning_rate_warms_up_and_decays_when_asked():
    assert schedule_of(ImageConfig(warm_up=0)) is None
    warm = schedule_of(ImageConfig(warm_up=4))
    assert [warm(0), warm(3), warm(10**6)] == [0.25, 1, 1]
    assert schedule_of(ImageConfig(warm_up=0, decay="cosine", steps=10))(5) == pytest.approx(0.5)
    optimizer = image_optimizer_of(ImageConfig(learning_rate=0.5, weight_decay=0.25))(
        [torch.nn.Parameter(torch.zeros(1))]
    )
    assert isinstance(optimizer, torch.optim.AdamW)
    assert [optimizer.defaults[name] for name in ("lr", "weight_decay")] == [0.5, 0.25]


def test_the_json_holds_every_field_under_its_own_name():
    config = ImageConfig(averages=(0.9, 0.99))
    values = json.loads(config.to_json())
    assert set(values) == {field.name for field in dataclasses.fields(config)}
    assert values["averages"] == [0.9, 0.99]
