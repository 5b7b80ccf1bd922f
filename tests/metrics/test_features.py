import sys
import types

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from interpolants.metrics import (
    Classifier,
    FeatureStatistics,
    extract,
    feature_batches,
    frechet_distance,
    inception,
    train_classifier,
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def images(n, *shape, seed=0):
    return torch.randn(n, *shape, generator=seeded(seed))


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    x = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    y = torch.tensor(data.target)
    order = torch.randperm(len(x), generator=seeded(1))
    return x[order[:1437]], y[order[:1437]], x[order[1437:]], y[order[1437:]]


# ---- Classifier


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 28, 20), (2, 5, 7), (1, 1, 1), (1, 64, 64)])
def test_a_classifier_takes_images_of_any_shape(shape):
    classifier = Classifier(shape, 7, width=8, features=24, generator=seeded())
    x = images(3, *shape)
    assert classifier.features(x).shape == (3, 24)
    assert classifier.logits(x).shape == (3, 7)
    assert torch.equal(classifier(x), classifier.features(x))


def test_a_classifier_looks_at_one_image_at_a_time_in_either_mode():
    classifier = Classifier((1, 8, 8), 3, generator=seeded())
    x = images(4, 1, 8, 8)
    together = classifier(x)
    # Single precision, through half a dozen layers.
    torch.testing.assert_close(classifier.eval()(x[2:3]), together[2:3], rtol=1e-4, atol=1e-5)


def test_features_are_the_scaled_inputs_of_the_last_layer():
    classifier = Classifier((1, 8, 8), 3, generator=seeded())
    classifier.scale.fill_(2.0)
    x = images(4, 1, 8, 8)
    expected = classifier.head(classifier.features(x) / 2)
    torch.testing.assert_close(classifier.logits(x), expected)


def test_initial_weights_come_from_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (Classifier((1, 8, 8), 3, generator=seeded(s)).state_dict() for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["stem.weight"], other["stem.weight"])


def test_initial_weights_have_the_variance_of_he():
    weight = Classifier((1, 8, 8), 3, features=128, generator=seeded()).blocks[-1].second.weight
    # 147,456 normal numbers: their variance is known to 0.4 %, five times.
    assert weight.detach().var() == pytest.approx(2 / (128 * 9), rel=0.02)


@pytest.mark.parametrize(
    ("shape", "classes", "sizes"),
    [
        ((8, 8), 3, {}),
        ((1, 0, 8), 3, {}),
        ((1, 8, 8), 0, {}),
        ((1, 8, 8), 3, {"width": 12}),
        ((1, 8, 8), 3, {"features": 0}),
    ],
)
def test_classifiers_that_cannot_be_built_are_refused(shape, classes, sizes):
    with pytest.raises(ValueError, match="must be"):
        Classifier(shape, classes, **sizes)


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"shape \(N, 1, 8, 8\), not \(2, 3, 8, 8\)"):
        Classifier((1, 8, 8), 3, generator=seeded())(torch.zeros(2, 3, 8, 8))


# ---- train_classifier


def test_a_classifier_of_digits_reads_digits_and_sees_damage(digits):
    x, y, held_out, labels = digits
    classifier = train_classifier(x, y, seed=0, steps=200)
    # 98 % when written; 97 % is asked for.
    assert (classifier.logits(held_out).argmax(1) == labels).double().mean() >= 0.97
    features = extract(classifier, x)
    assert features.var(dim=0).mean() == pytest.approx(1, rel=1e-5)
    floor = frechet_distance(extract(classifier, held_out), features)
    damaged = held_out + 0.4 * images(*held_out.shape, seed=3)
    blurred = nn.functional.avg_pool2d(held_out, 3, 1, 1)
    some = held_out[labels < 5]
    for worse in (damaged, blurred, some):
        # 4 to 30 times the floor when written.
        assert frechet_distance(extract(classifier, worse), features) > 2 * floor


def test_training_repeats_with_its_seed_and_leaves_the_global_state_alone():
    x, y = images(50, 1, 8, 8), torch.arange(50) % 3
    state = torch.get_rng_state()
    first, again, other = (
        train_classifier(x, y, seed=seed, steps=3, batch_size=20).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_training_works_where_gradients_are_switched_off():
    x, y = images(20, 1, 8, 8), torch.arange(20) % 2
    with torch.no_grad():
        classifier = train_classifier(x, y, seed=0, steps=2)
    again = train_classifier(x, y, seed=0, steps=2)
    assert torch.equal(classifier(x), again(x))
    assert not any(parameter.requires_grad for parameter in classifier.parameters())


@pytest.mark.parametrize(("shape", "classes"), [((1, 8, 8), 4), ((1, 8, 6), 2)])
def test_without_labels_it_learns_how_images_are_turned(shape, classes):
    x = 0.3 * images(60, *shape)
    x[:, :, 0] += 2  # a bright first row tells what is up
    classifier = train_classifier(x, seed=0, steps=40, width=8, features=16)
    assert classifier.classes == classes
    turns = [x.rot90(4 // classes * i, (2, 3)) for i in range(classes)]
    found = [(classifier.logits(turned).argmax(1) == i).double().mean() for i, turned in enumerate(turns)]
    assert min(found) > 0.9


def test_every_image_is_seen_once_before_any_is_seen_again():
    from interpolants.metrics.features import _orders

    batches = list(_orders(10, 3, 7, seeded()))
    assert [len(batch) for batch in batches] == [3] * 7
    assert len(set(torch.cat(batches[:3]).tolist())) == 9
    assert len(set(torch.cat(batches[3:6]).tolist())) == 9
    assert not torch.equal(torch.cat(batches[:3]), torch.cat(batches[3:6]))


@pytest.mark.parametrize(
    ("x", "y", "options", "error", "message"),
    [
        (torch.zeros(4, 1, 8, 8, dtype=torch.uint8), None, {}, TypeError, "floating point"),
        (torch.zeros(4, 8, 8), None, {}, ValueError, r"shape \(N, C, H, W\)"),
        (torch.zeros(1, 1, 8, 8), None, {}, ValueError, "N at least 2"),
        (torch.full((4, 1, 8, 8), float("nan")), None, {}, ValueError, "finite"),
        (
            torch.zeros(4, 1, 8, 8),
            torch.zeros(4),
            {},
            TypeError,
            "labels must be integers, not torch.float32",
        ),
        (torch.zeros(4, 1, 8, 8), torch.zeros(3).long(), {}, ValueError, r"shape \(4,\), not shape \(3,\)"),
        (torch.zeros(4, 1, 8, 8), torch.tensor([0, 1, -1, 0]), {}, ValueError, "from -1"),
        (torch.zeros(4, 1, 8, 8), None, {"steps": 0}, ValueError, "steps and batch_size must be at least 1"),
        (torch.zeros(4, 1, 8, 8), None, {"batch_size": 0}, ValueError, "not 400 and 0"),
    ],
    ids=["bytes", "flat", "one", "nan", "float labels", "few labels", "negative", "no steps", "no batch"],
)
def test_data_that_cannot_be_learnt_from_are_refused(x, y, options, error, message):
    with pytest.raises(error, match=message):
        train_classifier(x, y, seed=0, **options)


# ---- extract


def flatten(x):
    return x.flatten(1)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batches_do_not_change_features(batch_size):
    x = images(10, 2, 3, 3)
    assert torch.equal(extract(flatten, x, batch_size=batch_size), x.flatten(1).double())
    assert torch.equal(extract(flatten, torch.split(x, batch_size)), x.flatten(1).double())


def test_features_that_stream_have_the_statistics_of_all():
    x, statistics = images(10, 2, 3, 3), FeatureStatistics(18)
    sizes = []
    for features in feature_batches(flatten, x, batch_size=4):
        sizes.append(len(features))
        statistics.update(features)
    assert sizes == [4, 4, 2]
    torch.testing.assert_close(statistics.covariance, x.flatten(1).double().T.cov())


def test_feature_maps_are_averaged():
    x = images(5, 2, 3, 4)
    torch.testing.assert_close(extract(lambda x: x, x), x.double().mean(dim=(2, 3)))


def test_a_module_is_called_in_evaluation_mode_and_left_as_it_was():
    module = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.BatchNorm1d(4))
    module[2].eval()
    x = images(5, 1, 2, 2)
    features = extract(module, x)
    assert not features.requires_grad
    torch.testing.assert_close(features.float(), x.flatten(1), rtol=1e-4, atol=1e-4)
    assert [part.training for part in module] == [True, True, False]
    with pytest.raises(RuntimeError):
        extract(module, torch.zeros(3, 1, 3, 3))
    assert module.training


def test_images_go_where_the_module_or_the_caller_says():
    class Where(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("here", torch.zeros((), device="meta"))

        def forward(self, x):
            seen.append(x.device.type)
            return torch.zeros(len(x), 2)

    seen = []
    extract(Where(), torch.zeros(3, 1, 2, 2))
    extract(Where(), torch.zeros(3, 1, 2, 2), device="cpu")
    extract(lambda x: Where()(x), torch.zeros(3, 1, 2, 2))
    assert seen == ["meta", "cpu", "cpu"]


@pytest.mark.parametrize(
    ("extractor", "x", "error", "message"),
    [
        (lambda x: (x,), torch.zeros(3, 1, 2, 2), TypeError, "one tensor of features, not tuple"),
        (lambda x: {"a": x}, torch.zeros(3, 1, 2, 2), TypeError, "not dict"),
        (lambda x: x.flatten(), torch.zeros(3, 1, 2, 2), ValueError, r"N = 3, not \(12,\)"),
        (lambda x: x[:2].flatten(1), torch.zeros(3, 1, 2, 2), ValueError, r"N = 3, not \(2, 4\)"),
        (lambda x: x[:, 0], torch.zeros(3, 1, 2, 2), ValueError, r"not \(3, 2, 2\)"),
        (lambda x: x.flatten(1) / 0, torch.zeros(3, 1, 2, 2), ValueError, "NaN or an infinity"),
        (flatten, torch.zeros(0, 1, 2, 2), ValueError, "at least one image"),
        (flatten, [(torch.zeros(3, 1, 2, 2), torch.zeros(3))], TypeError, r"not tuple; .*\(batch\[0\] for"),
        (3, torch.zeros(3, 1, 2, 2), TypeError, "function or a module, not int"),
    ],
    ids=["tuple", "dict", "vector", "fewer", "three", "nan", "none", "pairs", "number"],
)
def test_what_gives_no_features_is_refused(extractor, x, error, message):
    with pytest.raises(error, match=message):
        extract(extractor, x)


def test_a_batch_holds_an_image():
    with pytest.raises(ValueError, match="batch_size must be at least 1, not 0"):
        extract(flatten, torch.zeros(3, 1, 2, 2), batch_size=0)


# ---- inception


class Network(nn.Module):
    """Stands for torchmetrics' network: keeps what it was built with and what it saw."""

    def __init__(self, *args, **options):
        super().__init__()
        self.args, self.options = args, options

    def forward(self, x):
        self.seen = x
        return x.float().flatten(1)


@pytest.fixture
def _installed(monkeypatch):
    fid = types.ModuleType("torchmetrics.image.fid")
    fid.NoTrainInceptionV3 = Network
    for name in ("torchmetrics", "torchmetrics.image", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", fid)


@pytest.mark.parametrize("missing", ["torch_fidelity", "torchmetrics.image.fid"])
@pytest.mark.usefixtures("_installed")
def test_missing_packages_are_named(missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match="pip install torchmetrics torch-fidelity torchvision"):
        inception()


@pytest.mark.usefixtures("_installed")
def test_missing_weights_are_named_and_not_downloaded(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    place = r"hub.checkpoints.weights-inception-2015-12-05-6726825d\.pth.* fetch it from https"
    with pytest.raises(FileNotFoundError, match=place):
        inception()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        inception(weights=tmp_path / "nowhere")


@pytest.mark.usefixtures("_installed")
def test_inception_sees_three_channels_of_bytes(tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    extractor = inception(weights=weights, features=192)
    assert extractor.network.args == ("inception-v3-compat", ["192"], str(weights))
    # The original FID resizes without smoothing.
    assert extractor.network.options == {"antialias": False}
    assert not extractor.training
    x = torch.tensor([-1.0, 1.0, 0.0, 0.5, -3.0, 3.0, 1 / 255]).reshape(1, 1, 1, 7)
    features = extract(extractor, x.double())
    # 127.5 is rounded to the even 128, 191.25 down; 1/255 is the middle of byte 128.
    expected = [0, 255, 128, 191, 0, 255, 128]
    assert extractor.network.seen.dtype == torch.uint8
    assert extractor.network.seen.tolist() == [[[expected]] * 3]
    assert features.shape == (1, 21)
    colour = torch.stack([torch.full((2, 2), value) for value in (-1.0, 0.2, 1.0)])[None]
    extractor(colour.half())
    assert extractor.network.seen[0, :, 0, 0].tolist() == [0, 153, 255]


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(2, 2, 4, 4), ValueError, r"\(N, 1 or 3, H, W\), not \(2, 2, 4, 4\)"),
        (torch.zeros(1, 4, 4), ValueError, "1 or 3"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), TypeError, "floating point"),
        (torch.full((2, 1, 4, 4), float("nan")), ValueError, "finite"),
    ],
    ids=["two channels", "no batch", "bytes", "nan"],
)
def test_images_inception_cannot_see_are_refused(x, error, message, tmp_path):
    weights = tmp_path / "weights.pth"
    weights.touch()
    with pytest.raises(error, match=message):
        inception(weights=weights)(x)
