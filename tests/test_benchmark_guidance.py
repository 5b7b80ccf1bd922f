import contextlib
import io
import json
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("matplotlib", reason="the benchmark draws")
pytest.importorskip("safetensors", reason="the benchmark reads a run")

from benchmarks import guidance
from interpolants.cli import image_quality
from interpolants.cli import main as command
from interpolants.config import ImageConfig
from interpolants.metrics import Classifier

SMALL = (
    "--width 8 --multipliers 1 --blocks 1 --attention --heads 1 --batch-size 8 --sample-steps 2 "
    "--picture-every 0 --warm-up 3 --steps 4"
).split()


def quickly(images, labels, *, seed):
    return Classifier((1, 8, 8), 10, generator=torch.Generator().manual_seed(seed)).requires_grad_(False)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("guidance") / "run"
    assert command(["train", "digits", *SMALL, "--out", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def result(run, tmp_path_factory):
    """What the command makes of an almost untrained run, at three scales."""
    at, saved, levels, said = tmp_path_factory.mktemp("pictures"), {}, {}, io.StringIO()
    options = ["--scales", "0", "1", "40", "--samples", "400", "--sample-steps", "2", "--save"]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(image_quality, "train_classifier", quickly)
        patch.setattr(guidance, "save", lambda name, figures: saved.setdefault(name, figures))
        patch.setattr(guidance, "PICTURES", at)
        patch.setattr(guidance, "picture", lambda made: levels.update(made) or picture(made))
        guidance.main(["--run", str(run), *options, "--out", str(at / "out")])
    return SimpleNamespace(saved=saved["guidance"], levels=levels, said=said.getvalue(), at=at)


picture = guidance.picture


def test_all_scales_start_from_the_same_noise_and_the_class_counts_from_scale_one(result):
    without, learnt, exaggerated = (result.levels[scale].shown for scale in (0, 1, 40))
    assert without.shape == (10, 3, 1, 8, 8)
    # Without classes they are one image ten times; with them hardly different after four steps.
    assert torch.equal(without, without[:1].expand_as(without))
    assert 0 < (learnt - without).abs().max() < 0.1
    # f_u + 40 (f_c - f_u): the difference to scale 0 is about 40 times that of scale 1.
    ratio = (exaggerated - without).norm() / (learnt - without).norm()
    assert 20 < ratio < 60


def test_the_table_has_a_line_for_each_scale_below_held_out_images(result):
    lines = result.said.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("scale     ")))
    assert lines[start].split() == ["scale", "asked", "for", "Fréchet", "precision", "recall"]
    assert [line.split()[0] for line in lines[start + 1 : start + 5]] == ["real,", "0", "1", "40"]
    shown = f"{result.levels[40].quality.frechet.generated}"
    assert shown in lines[start + 4]


def test_what_is_kept_tells_no_paths(result, run):
    text = json.dumps(result.saved)
    assert str(run.parent) not in text
    assert str(result.at) not in text
    assert result.saved["command"].startswith(
        "python -m benchmarks.guidance --run runs/digits --scales 0 1 40 --samples 400 --sample-steps 2"
    )
    assert result.saved["training"]["class_dropout"] == 0.1
    assert result.saved["trained steps"] == 4
    assert list(result.saved["scales"]) == ["0", "1", "40"]
    assert result.saved["scales"]["1"]["recognised"]["n"] == 400
    assert (result.at / "guidance.png").is_file()


def test_the_picture_names_scales_classes_and_figures(result):
    (axes,) = picture(result.levels).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0", "1", "40"]
    assert [label.get_text() for label in axes.get_xticklabels()] == [str(k) for k in range(10)]
    distance = f"{result.levels[40].quality.frechet.generated.value:.2f}"
    assert distance in [text.get_text() for text in axes.texts]


def test_the_nearest_scale_is_that_of_the_least_distance(result):
    distances = {scale: level.quality.frechet.generated.value for scale, level in result.levels.items()}
    least = min(distances.values())
    (line,) = [line for line in result.said.splitlines() if line.startswith("nearest")]
    assert distances[float(line.split()[-1])] == least


def test_recognised_is_the_share_of_images_taken_for_their_label():
    classifier = Classifier((1, 8, 8), 3, generator=torch.Generator().manual_seed(0))
    images = torch.randn(300, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        labels = classifier.logits(images).argmax(1)
    labels[:75] = (labels[:75] + 1) % 3
    found = guidance.recognised(classifier.requires_grad_(False), images, labels)
    assert (found.value, found.n) == (0.75, 300)
    # Of 300 throws at 3/4.
    assert found.standard_error == pytest.approx(0.025)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"conditional": False}, "learnt classes"),
        ({"class_dropout": 0.0}, "--class-dropout"),
        ({"held_out": 0}, "no held-out images"),
    ],
)
def test_runs_that_cannot_be_guided_are_refused(changed, said, monkeypatch, tmp_path):
    run = SimpleNamespace(config=ImageConfig(**{"conditional": True, **changed}))
    monkeypatch.setattr(guidance.ImageRun, "loaded", lambda path, device: run)
    with pytest.raises(ValueError, match=said):
        guidance.loaded(tmp_path, "cpu")
