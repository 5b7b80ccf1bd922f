import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("matplotlib", reason="the benchmark draws")
pytest.importorskip("safetensors", reason="the benchmark reads a run")

from benchmarks import ddim
from interpolants.cli import image_quality
from interpolants.cli import main as command
from interpolants.config import ImageConfig
from interpolants.data import Digits
from interpolants.metrics import Classifier, extract, frechet_distance

SMALL = (
    "--width 8 --multipliers 1 --blocks 1 --attention --heads 1 --batch-size 8 --sample-steps 2 "
    "--picture-every 0 --warm-up 3 --steps 4"
).split()


def classifier():
    return Classifier((1, 8, 8), 10, generator=torch.Generator().manual_seed(0)).requires_grad_(False)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    path = tmp_path_factory.mktemp("ddim") / "run"
    assert command(["train", "digits", *SMALL, "--out", str(path)]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_quality, "train_classifier", lambda images, labels, *, seed: classifier())
        rows, facts = ddim.rows_of_run(path, (1, 2), samples=730, device="cpu", seed=0)
    return SimpleNamespace(rows=rows, facts=facts, path=path)


def test_the_network_of_a_run_goes_through_every_sampler_from_one_noise(found):
    assert {name: list(cells) for name, cells in found.rows.items()} == {
        "IADB (Euler)": [1, 2],
        "DDIM": [1, 2],
        "Heun": [2],
        "rk4": [],
    }
    for count in (1, 2):
        iadb, ddim_s = (found.rows[name][count].images for name in ("IADB (Euler)", "DDIM"))
        assert iadb.shape == (730, 1, 8, 8)
        # One map in exact arithmetic, computed in single precision.
        torch.testing.assert_close(ddim_s, iadb, rtol=0, atol=1e-5)


def test_a_distance_is_the_mean_over_sets_as_large_as_the_held_out_one(found):
    train, held_out = Digits().split(1437)
    real, kept = (
        extract(classifier(), images.batch(torch.arange(len(images)))[0]) for images in (train, held_out)
    )
    features = extract(classifier(), found.rows["Heun"][2].images.clamp(-1, 1))
    parts = [frechet_distance(features[:360], real), frechet_distance(features[360:720], real)]
    assert found.rows["Heun"][2].quality == pytest.approx(sum(parts) / 2)
    assert found.facts["floor"] == pytest.approx(frechet_distance(kept, real))


def test_what_is_known_of_the_run_tells_no_paths(found):
    text = json.dumps(found.facts)
    assert str(found.path.parent) not in text
    assert found.facts["training"]["images"] == "digits"
    numbers = {
        name: found.facts[name]
        for name in ("trained steps", "samples", "images of a distance", "real images")
    }
    assert numbers == {
        "trained steps": 4,
        "samples": 730,
        "images of a distance": 360,
        "real images": 1437,
    }


def test_every_class_is_asked_for_as_often(found, monkeypatch):
    given = []
    monkeypatch.setattr(ddim, "compare", lambda *_, **conditions: given.append(conditions["label"]) or {})
    ddim.rows_of_run(found.path, (1,), samples=400, device="cpu", seed=0)
    assert torch.bincount(given[0]).tolist() == [40] * 10


def test_fewer_samples_than_held_out_images_are_refused(found, monkeypatch):
    monkeypatch.setattr(ddim, "classifier_of", lambda run, split, path: classifier())
    with pytest.raises(ValueError, match="at least the 360 images held out; got 359"):
        ddim.rows_of_run(found.path, (1,), samples=359, device="cpu", seed=0)


@pytest.mark.parametrize(
    ("gaussian", "held_out", "said"), [(False, 360, "Gaussian noise"), (True, 0, "no held-out images")]
)
def test_runs_that_cannot_be_compared_are_refused(gaussian, held_out, said, monkeypatch, tmp_path):
    field = SimpleNamespace(gaussian_source=gaussian)
    run = SimpleNamespace(config=ImageConfig(held_out=held_out), field=lambda: field)
    monkeypatch.setattr(ddim.ImageRun, "loaded", lambda path, device: run)
    with pytest.raises(ValueError, match=said):
        ddim.rows_of_run(tmp_path, (1,), samples=360, device="cpu", seed=0)
