from types import SimpleNamespace

import numpy as np
import pytest
import torch

from interpolants.cli.image_runs import Facts
from interpolants.cli.image_samples import Drawing, Parts, bytes_of, sampler_named
from interpolants.config import ImageConfig
from interpolants.data import TensorImages
from interpolants.samplers import Constant, DDIMSampler, ODESampler, ProportionalToAlpha, ProportionalToGamma


class Noise:
    """Ends in noise of its own, wherever it starts."""

    def sample(self, field, x, *, generator, **conditions):
        return SimpleNamespace(final=torch.randn(x.shape, generator=generator))


class Still:
    """Stays where it starts."""

    def sample(self, field, x, *, generator, **conditions):
        return SimpleNamespace(final=x)


def drawing(sampler, *, counts=None, **options):
    run = SimpleNamespace(
        config=ImageConfig(conditional=counts is not None),
        facts=Facts((1, 2, 2), 100, None if counts is None else len(counts), counts),
        device=torch.device("cpu"),
    )
    return Drawing(None, sampler, run, **{"source": "normal", "seed": 0, **options})


@pytest.mark.parametrize("sampler", [Noise(), Still()], ids=["noise", "start"])
def test_each_batch_has_randomness_of_its_own_that_the_seed_decides(sampler):
    first, second = (drawing(sampler).batch(number, 4).images for number in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, drawing(sampler).batch(0, 4).images)
    assert not torch.equal(first, drawing(sampler, seed=1).batch(0, 4).images)


def test_the_starting_points_have_the_law_that_the_training_had():
    n = 20_000
    for source in ("normal", "uniform"):
        x0 = drawing(Still(), source=source).batch(0, n).images
        # Five standard errors of mean and variance: chance exceeds them once in a million.
        assert abs(x0.mean()) < 5 * x0.numel() ** -0.5
        assert abs(x0.var() - 1) < 5 * (2 / x0.numel()) ** 0.5
        assert (x0.abs().max() > 3**0.5) == (source == "normal")
    images = TensorImages(torch.tensor([-1.0, 0.5]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2))
    chosen = drawing(Still(), source=images).batch(0, 50).images
    assert set(chosen.flatten().tolist()) == {-1.0, 0.5}


def test_source_images_are_mirrored_as_the_training_mirrored_them():
    images = TensorImages(torch.tensor([-1.0, 1.0]).expand(1, 1, 2, 2).clone())
    n = 1000
    for flip in (False, True):
        drawn = drawing(Still(), source=images)
        drawn.run.config = ImageConfig(flip=flip)
        turned = (drawn.batch(0, n).images[:, 0, 0, 0] == 1).double().mean()
        # Five standard errors of a share: chance exceeds them once in a million.
        assert abs(turned - 0.5 * flip) < 5 * flip * (0.25 / n) ** 0.5 + 1e-9


def test_classes_are_drawn_as_often_as_there_are_images_of_them():
    n = 10_000
    labels = drawing(Still(), counts=(3, 0, 1)).labels(n, 300)
    shares = torch.bincount(labels, minlength=3) / n
    assert shares[1] == 0
    # Five standard errors of a share.
    assert abs(shares[0] - 0.75) < 5 * (0.75 * 0.25 / n) ** 0.5
    assert drawing(Still(), counts=(3, 0, 1), label=1).batch(0, 2).labels.tolist() == [1, 1]
    assert drawing(Still()).batch(0, 2).labels is None


def test_images_are_rounded_to_the_nearest_byte_and_cut_off():
    images = torch.tensor([-3.0, -1.0, 0.0, 0.003, 1.0, 2.0]).reshape(1, 2, 1, 3)
    assert bytes_of(images).tolist() == [[[[0, 128], [0, 255], [128, 255]]]]
    with pytest.raises(ValueError, match="diverged"):
        bytes_of(images / 0)


@pytest.mark.parametrize("out", ["a.npz", "a"])
def test_parts_of_several_processes_make_the_whole_of_one(out, tmp_path):
    for name, count in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        parts = Parts(tmp_path / name / out, 11, 4)
        parts.begin()
        written = [list(parts.write(drawing(Still()), index, count)) for index in range(count)]
        assert written == ([[4, 4, 3]] if count == 1 else [[4, 3], [4]])
        parts.finish(None)
        assert [path.name for path in (tmp_path / name).iterdir()] == [out]
    one, two = (tmp_path / name / out for name in ("one", "two"))
    if out == "a.npz":
        with np.load(one) as first, np.load(two) as second:
            assert first["images"].shape == (11, 2, 2, 1)
            np.testing.assert_array_equal(first["images"], second["images"])
        return
    assert sorted(path.name for path in one.iterdir()) == [f"{k:06d}.png" for k in range(11)]
    assert all((two / path.name).read_bytes() == path.read_bytes() for path in one.iterdir())


def test_names_become_samplers():
    assert sampler_named("heun", 7) == ODESampler("heun", steps=7, end_only=True)
    assert sampler_named("ddim", 7) == DDIMSampler(steps=7, end_only=True)
    epsilons = {
        "0.5": Constant(0.5),
        "gamma:2": ProportionalToGamma(2.0),
        "alpha:3": ProportionalToAlpha(3.0),
    }
    for name, epsilon in epsilons.items():
        sampler = sampler_named("heun", 7, name)
        assert (sampler.epsilon, sampler.method, sampler.steps) == (epsilon, "heun", 7)
    for name in ("x", ":1", "beta:1", "gamma:", "gamma:nan"):
        with pytest.raises(ValueError, match="--sde must be a number, gamma:C or alpha:C"):
            sampler_named("euler", 7, name)
