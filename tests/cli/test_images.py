import errno
import json
import math
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.cli import main
from interpolants.cli.image_folder import read_metrics
from interpolants.config import Config, ImageConfig
from interpolants.config.images import Split
from interpolants.data import Digits, ImageBatches, TensorImages
from interpolants.metrics import FeatureStatistics
from interpolants.training import Checkpoints, load_checkpoint

SMALL = (
    "--width 8 --multipliers 1 --blocks 1 --attention --heads 1 --batch-size 8 --sample-steps 2 "
    "--picture-every 0 --warm-up 3 --decay none --averages 0.999 --no-conditional"
).split()


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")


def exit_code(*arguments):
    """What the shell would see: the parser leaves by SystemExit, commands return."""
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return stop.code


def train(*arguments, out="run"):
    return exit_code("train", "digits", *SMALL, "--out", out, *arguments)


def refused(capsys, *arguments):
    """The one line that bad input gets; nothing else may be printed or left behind."""
    before = sorted(os.listdir())
    capsys.readouterr()
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(os.listdir()) == before
    lines = [line for line in captured.err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    return lines[0]


def last_state(run):
    tensors, metadata, _ = Checkpoints(Path(run) / "checkpoints").latest()
    return tensors, json.loads(metadata["training"])


def assert_same_state(run, other):
    (tensors, values), (others, their_values) = last_state(run), last_state(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert values == their_values


def steps_logged(run):
    return [line["step"] for line in read_metrics(Path(run) / "metrics.jsonl")]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run that has learned classes, for a few steps."""
    out = tmp_path_factory.mktemp("labelled") / "run"
    assert train("--steps", 4, "--conditional", "--class-dropout", 0.2, out=out) == 0
    return out


def test_help_of_the_images_has_an_example_and_says_what_every_option_does(capsys):
    for command in (["train", "folder"], ["evaluate"], ["sample"]):
        assert exit_code(*command, "--help") == 0
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) <= (110 if command[0] == "train" else 55)
        assert max(map(len, lines)) <= 90
        assert any("Example: interpolants" in line for line in lines)


def test_a_training_writes_its_records_pictures_and_checkpoints(capsys):
    options = ["--steps", 5, "--log-every", 2, "--checkpoint-every", 2, "--keep", 2, "--picture-every", 4]
    assert train(*options) == 0
    assert sorted(os.listdir("run")) == [
        "checkpoints", "config.json", "loss.png", "metrics.jsonl", "run.json", "samples", "samples.png",
    ]  # fmt: skip
    assert sorted(os.listdir("run/checkpoints")) == ["step-00000004.safetensors", "step-00000005.safetensors"]
    assert sorted(os.listdir("run/samples")) == ["step-00000004.png", "step-00000005.png"]
    assert "run/samples.png" in capsys.readouterr().out
    with Image.open("run/samples.png") as grid:
        assert grid.size == (8 * 68 + 4, 8 * 68 + 4)
    config = ImageConfig.from_json(Path("run/config.json").read_text())
    assert (config.steps, config.width, config.attention) == (5, 8, ())
    lines = read_metrics(Path("run/metrics.jsonl"))
    assert [line["step"] for line in lines] == [2, 4, 5]
    # The rate of the step before which two have been made, out of three of warm-up.
    assert [line["learning_rate"] for line in lines] == pytest.approx([2e-3 / 3, 1e-3, 1e-3])
    assert all(line["gradient_norm"] > 0 and line["images_per_second"] > 0 for line in lines)
    assert lines[0]["seconds"] < lines[1]["seconds"] < lines[2]["seconds"]
    (start,) = json.loads(Path("run/run.json").read_text())["starts"]
    assert start["command"].startswith("interpolants train digits --width 8")
    assert start["versions"]["torch"] == torch.__version__
    assert (start["images"], start["shape"], start["processes"]) == (1437, [1, 8, 8], 1)


def test_a_run_that_goes_on_ends_as_if_it_had_never_stopped(capsys):
    options = ["--log-every", 1, "--checkpoint-every", 3, "--dropout", 0.2, "--averages", 0.9, 0.5]
    options += ["--accumulate", 2, "--conditional", "--flip", "--resume"]
    assert train(*options, "--steps", 8, "--picture-every", 3, out="whole") == 0
    assert train(*options, "--steps", 5, out="parts") == 0
    # What a crash may leave behind: lines of steps that were lost, and half a line.
    with open("parts/metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": 1.0, "seconds": 1.0}\n{"step": 7, "lo')
    assert train(*options, "--steps", 8, out="parts") == 0
    assert_same_state("parts", "whole")
    assert steps_logged("parts") == list(range(1, 9))
    whole, parts = (read_metrics(Path(run) / "metrics.jsonl") for run in ("whole", "parts"))
    assert [line["loss"] for line in whole] == [line["loss"] for line in parts]
    assert [line["seconds"] for line in parts] == sorted(line["seconds"] for line in parts)
    assert len(json.loads(Path("parts/run.json").read_text())["starts"]) == 2
    # A finished run is left as it is, and is not taken back.
    assert train(*options, "--steps", 8, out="parts") == 0
    assert_same_state("parts", "whole")
    assert "parts has made 8 steps already; --steps must be at least as many, got 7" in refused(
        capsys, "train", "digits", *SMALL, *options, "--steps", 7, "--out", "parts"
    )
    assert json.loads(Path("parts/config.json").read_text())["steps"] == 8


@pytest.mark.parametrize("options", [["--resume"], []], ids=["resume", "no-resume"])
def test_a_run_that_is_there_is_neither_mixed_nor_overwritten_unasked(options, capsys):
    assert train("--steps", 1) == 0
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    arguments = ("train", "digits", *SMALL, "--steps", 1, "--out", "run", "--seed", 5)
    said = "run holds another run: --seed was 0 and is 5" if options else "holds a run already"
    assert said in refused(capsys, *arguments, *options)
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert "give one of them" in refused(capsys, *arguments, "--resume", "--overwrite")
    assert train("--steps", 1, "--seed", 5, "--overwrite", "--checkpoint-every", 7) == 0
    assert json.loads(Path("run/config.json").read_text())["seed"] == 5
    assert train("--steps", 1, "--seed", 5, out="fresh") == 0
    assert_same_state("run", "fresh")


def test_a_torn_folder_is_begun_anew_and_one_that_is_no_run_left_alone(capsys):
    assert train("--steps", 2, out="whole") == 0
    os.makedirs("run/checkpoints")
    Path("run/.config.json.12.partial").write_text('{"ima')
    assert train("--steps", 2, "--resume") == 0
    assert_same_state("run", "whole")
    assert not Path("run/.config.json.12.partial").exists()
    # Every checkpoint damaged, and the records torn.
    for path in Path("run/checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    Path("run/run.json").write_text("{")
    assert train("--steps", 2, "--resume") == 0
    assert "beginning anew" in capsys.readouterr().err
    assert_same_state("run", "whole")
    # Of a torn configuration the checkpoints know what it was.
    Path("run/config.json").write_text("{")
    assert "--seed was 0 and is 1" in refused(
        capsys, "train", "digits", *SMALL, "--steps", 2, "--out", "run", "--resume", "--seed", 1
    )
    assert train("--steps", 2, "--resume") == 0
    Path("run/config.json").write_text(Config().to_json())
    assert "run holds a run of another kind or version" in refused(
        capsys, "train", "digits", *SMALL, "--out", "run", "--resume"
    )
    os.mkdir("precious")
    Path("precious/holiday.png").write_text("")
    assert "holds something that is no run" in refused(
        capsys, "train", "digits", *SMALL, "--out", "precious", "--resume"
    )


def test_a_run_is_not_continued_with_other_images(capsys):
    np.savez("mine.npz", images=np.zeros((9, 8, 8), dtype=np.uint8))
    options = ["train", "npz", "--data", "mine.npz", *SMALL, "--steps", 1, "--held-out", 0, "--out", "run"]
    assert exit_code(*options) == 0
    np.savez("mine.npz", images=np.zeros((8, 8, 8), dtype=np.uint8))
    assert "no longer those of run: 9 of shape (1, 8, 8) then, 8" in refused(capsys, *options, "--resume")
    assert "held no images out" in refused(capsys, "evaluate", "run", "--n", 9)


def test_broken_pictures_are_noted_and_none_but_broken_ones_refused(capsys):
    os.mkdir("photos")
    for k in range(6):
        Image.new("RGB", (9, 12), (40 * k, 0, 0)).save(f"photos/{k}.png")
    for k in (2, 3):
        Path(f"photos/{k}.png").write_bytes(b"broken")
    options = ["train", "folder", "--data", "photos", *SMALL, "--size", 8, "--steps", 2, "--held-out", 0]
    assert exit_code(*options, "--workers", 0, "--out", "run") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if "broken" in line or "cannot" in line]
    assert sorted(line.partition(":")[2].strip()[:29] for line in lines) == [
        "photos/2.png cannot be read: ", "photos/3.png cannot be read: ",
    ]  # fmt: skip
    assert all(line.startswith("note: ") for line in lines)
    for path in Path("photos").iterdir():
        path.write_bytes(b"broken")
    assert "none of the 6 pictures below photos can be read" in refused(capsys, *options, "--out", "other")


def test_what_a_preset_switches_on_may_be_asked_for_and_switched_off():
    # In the shell's history there is "train digits --conditional" from before it was the preset's.
    for option, conditional in (("--conditional", True), ("--no-conditional", False)):
        assert train("--steps", 1, option, "--overwrite") == 0
        assert json.loads(Path("run/config.json").read_text())["conditional"] is conditional


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("digits --steps 0", "--steps must be at least 1"),
        ("digits --network resnet", "unknown network 'resnet'"),
        ("digits --size 9", "--size is 9 but the images are 8 x 8"),
        ("digits --source digits:11", "no image has the label 11"),
        ("digits --learn both", "needs latent noise"),
        ("digits --device tpu9", "--device tpu9 cannot be used here"),
        ("digits --method eular", "unknown ODE method 'eular'"),
        ("digits --width 9 --heads 2 --attention 1", "heads must divide"),
        ("digits --decay cosine --steps 3", "--decay cosine needs more --steps than those of --warm-up, 3"),
        ("digits --channels 3", "--channels is 3 but the images have 1; name their number, or 0"),
        ("folder", "name the folder with --data"),
        ("folder --data nowhere", "nowhere"),
        ("npz --data nowhere.npz", "nowhere.npz"),
        ("cats", "unknown preset 'cats'; known: iadb-2d, sde-2d, digits, glyphs"),
    ],
)
def test_a_training_that_cannot_be_is_refused_in_one_line(arguments, said, capsys):
    preset, *options = arguments.split()
    small = SMALL if preset in ("digits", "folder", "npz") else []
    assert said in refused(capsys, "train", preset, *small, *options, "--out", "run")


def test_an_option_there_is_not_leaves_by_code_2():
    assert exit_code("train", "digits", "--colour", "red") == 2
    assert os.listdir() == []


def test_a_full_disk_costs_no_checkpoint(capsys, monkeypatch):
    from interpolants.training import checkpoints

    assert train("--steps", 4, "--checkpoint-every", 2, out="whole") == 0
    real = checkpoints.save_checkpoint

    def full(path, *rest):
        if path.name == "step-00000004.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, *rest)

    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    capsys.readouterr()
    assert train("--steps", 4, "--checkpoint-every", 2) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line and "training:" not in line]
    assert said == [
        "interpolants: cannot write into run at step 4: No space left on device; "
        "the checkpoints written before are whole"
    ]
    load_checkpoint("run/checkpoints/step-00000002.safetensors")
    monkeypatch.setattr(checkpoints, "save_checkpoint", real)
    assert train("--steps", 4, "--checkpoint-every", 2, "--resume") == 0
    assert_same_state("run", "whole")


def test_a_loss_that_is_not_finite_is_explained_in_one_line(capsys):
    assert train("--steps", 9, "--learning-rate", "1e30", "--warm-up", 0, "--clip", 0) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("interpolants:")]
    assert len(said) == 1
    assert "is not finite" in said[0]
    assert "minibatch" in said[0]


@pytest.mark.parametrize(
    "options",
    [
        "--gamma brownian:0.1 --learn both --inverse-variance 0.25 --antithetic --loss quadratic",
        "--source digits:3 --coupling optimal-transport --interpolant trigonometric --weight-decay 0.1",
        "--network transformer --patch 4 --source uniform --decay cosine --warm-up 0 --averages",
    ],
)
def test_every_option_trains_and_is_sampled(options):
    assert train("--steps", 2, *options.split()) == 0
    assert exit_code("sample", "run", "--n", 3, "--steps", 2) == 0


def test_samples_depend_on_seed_and_batch_alone_and_are_written_as_bytes(labelled, capsys):
    options = ["sample", labelled, "--steps", 2, "--batch-size", 8]
    assert exit_code(*options, "--n", 20) == 0
    assert "20 images from the averaged weights of step 4: samples.npz" in capsys.readouterr().out
    with np.load("samples.npz") as found:
        images, labels = found["images"], found["labels"]
    assert (images.shape, images.dtype, labels.shape) == ((20, 8, 8, 1), np.uint8, (20,))
    assert set(labels) <= set(range(10))
    assert len(set(labels)) > 3
    assert exit_code(*options, "--n", 16, "--out", "fewer.npz") == 0
    with np.load("fewer.npz") as fewer:
        np.testing.assert_array_equal(fewer["images"], images[:16])
        np.testing.assert_array_equal(fewer["labels"], labels[:16])
    assert exit_code(*options, "--n", 16, "--seed", 1, "--out", "other.npz") == 0
    with np.load("other.npz") as other:
        assert (other["images"] != images[:16]).any()
        assert (other["labels"] != labels[:16]).any()
    assert exit_code(*options, "--n", 20, "--out", "folder") == 0
    names = [f"{k:06d}.png" for k in range(20)]
    assert sorted(os.listdir("folder")) == [*names, "labels.csv"]
    for k in (0, 19):
        with Image.open(f"folder/{names[k]}") as picture:
            np.testing.assert_array_equal(np.array(picture), images[k, :, :, 0])
    rows = Path("folder/labels.csv").read_text().split()
    assert rows[1:] == [f"{name},{label}" for name, label in zip(names, labels, strict=True)]
    assert sorted(os.listdir()) == ["fewer.npz", "folder", "other.npz", "samples.npz"]


def test_a_label_guidance_weights_and_every_sampler_may_be_chosen(labelled):
    found = {}
    for name, options in {
        "plain": "--label 3",
        "again": "--label 3 --weights 0.999",
        "last": "--label 3 --weights last",
        "other": "--label 4",
        "unguided": "--label 3 --guidance 1",
        "guided": "--label 3 --guidance 9",
        "heun": "--label 3 --method heun",
        "ddim": "--label 3 --method ddim",
        "sde": "--label 3 --sde alpha:1",
        "same sde": "--label 3 --sde alpha:1",
    }.items():
        assert (
            exit_code(
                "sample", labelled, "--n", 9, "--steps", 3, "--out", "a.npz", "--overwrite", *options.split()
            )
            == 0
        )
        with np.load("a.npz") as drawn:
            found[name] = drawn["images"]
            assert set(drawn["labels"]) == ({4} if name == "other" else {3})
    for name in ("again", "unguided", "sde"):
        np.testing.assert_array_equal(found[name], found["same sde" if name == "sde" else "plain"])
    for name in ("last", "other", "guided", "heun", "sde"):
        assert (found[name] != found["plain"]).any()
    # On this path DDIM takes the steps of Euler, up to the last bit.
    assert np.abs(found["ddim"].astype(int) - found["plain"]).max() <= 1


def test_samples_that_cannot_be_drawn_are_refused(labelled, capsys):
    assert exit_code("sample", labelled, "--n", 2, "--steps", 2) == 0
    os.mkdir("precious")
    Path("precious/holiday.txt").write_text("")
    os.mkdir("mine")
    Path("mine/holiday.png").write_text("")
    assert "no checkpoint at nowhere" in refused(capsys, "sample", "nowhere", "--label", 3)
    for options, said in (
        ("", "samples.npz exists already"),
        ("--out precious --overwrite", "holds something that is no folder of samples"),
        ("--out a.npz --label 10", "--label must be one of 0 to 9; got 10"),
        ("--out a.npz --sde x", "--sde must be a number, gamma:C or alpha:C; got 'x'"),
        ("--out a.npz --sde gamma:1", "gamma"),
        ("--out a.npz --method eular", "unknown ODE method 'eular'"),
        ("--out a.npz --weights best", "unknown weights 'best'; this run has averaged, last, 0.999"),
        ("--out a.npz --reverse", "--reverse carries points back"),
        ("--out nowhere/a.npz", "not a folder"),
        ("--out grid.png", "--out must be a folder or end in .npz; got grid.png"),
        ("--out mine --overwrite", "mine holds something that is no folder of samples"),
        ("--out a.npz --guidance inf", "--guidance must be finite; got inf"),
        ("--out a.npz --batch-size 0", "--batch-size must be at least 1"),
    ):
        assert said in refused(capsys, "sample", labelled, "--n", 2, *options.split())
    assert train("--steps", 1) == 0
    for option in ("--label 1", "--guidance 2"):
        assert "need a run trained with --conditional" in refused(
            capsys, "sample", "run", "--out", "a.npz", *option.split()
        )


def test_an_evaluation_puts_the_floor_beside_every_figure(labelled, capsys, monkeypatch):
    from interpolants.cli import image_quality

    taught = []

    def quickly(images, labels, *, seed):
        taught.append((len(images), seed))
        return image_quality.Classifier((1, 8, 8), 10, generator=torch.Generator().manual_seed(seed))

    monkeypatch.setattr(image_quality, "train_classifier", quickly)
    options = ["evaluate", labelled, "--n", 200, "--steps", 2]
    assert exit_code(*options, "--real", 500) == 0
    printed = capsys.readouterr().out
    for name in ("Fréchet", "precision", "recall", "density", "coverage", "sliced W2", "copies"):
        assert name in printed
    figures = json.loads((labelled / "evaluation.json").read_text())
    for name in ("frechet", "precision", "recall", "density", "coverage", "sliced_wasserstein2"):
        assert figures[name]["generated"]["n"] == figures[name]["floor"]["n"] == 200
    assert figures["frechet"]["floor"]["value"] < figures["frechet"]["generated"]["value"]
    assert figures["frechet"]["reference"] == 500
    assert (figures["copies"]["training"], figures["copies"]["held_out"]) == (500, 360)
    assert (figures["step"], figures["reference"], figures["steps"]) == (4, "train", 2)
    # The classifier is that of the run's folder from now on, and copies are of training images always.
    assert exit_code(*options, "--reference", "test", "--out", "test.json") == 0
    assert taught == [(1437, 0)]
    others = json.loads(Path("test.json").read_text())
    assert others["frechet"]["reference"] == 360
    assert (others["copies"]["training"], others["copies"]["held_out"]) == (1437, 360)
    for option, said in (
        ("--reference both", "unknown reference 'both'; known: train, test"),
        ("--extractor eyes", "unknown extractor 'eyes'; known: classifier, inception"),
        ("--n 0", "--n must be at least 1"),
        ("--n 5", "more than 5 images must be drawn, trained on and held out; got 5, 1,437 and 360"),
        ("--real 4", "got 10,000, 4 and 4"),
        ("--out figures.npz", "--out must be a file that ends in .json"),
    ):
        assert said in refused(capsys, "evaluate", labelled, *option.split())
    # Of a checkpoint the classifier is that of its run, and so is the place of the figures.
    (labelled / "evaluation.json").unlink()
    assert exit_code("evaluate", labelled / "checkpoints/step-00000004.safetensors", *options[2:]) == 0
    assert (labelled / "evaluation.json").is_file()
    assert len(taught) == 1
    # Of one class, its own images are what those drawn are compared with.
    capsys.readouterr()
    assert exit_code(*options, "--label", 3, "--out", "three.json") == 0
    three = json.loads(Path("three.json").read_text())
    labels = Digits().labels
    assert three["frechet"]["reference"] + three["copies"]["held_out"] == int((labels == 3).sum())
    assert three["copies"]["training"] == three["frechet"]["reference"]
    assert "there is no run at nowhere" in refused(capsys, "evaluate", "nowhere")


def test_the_distance_is_followed_while_it_trains_and_the_best_checkpoint_kept(monkeypatch):
    from interpolants.cli import image_quality

    monkeypatch.setattr(image_quality, "_COMPARED", 80)
    monkeypatch.setattr(
        image_quality,
        "train_classifier",
        lambda images, labels, *, seed: image_quality.Classifier(
            (1, 8, 8), 10, generator=torch.Generator().manual_seed(seed)
        ),
    )
    # Without averages the network itself is shown.
    learning = ["--steps", 4, "--dropout", 0.1, "--averages"]
    options = [*learning, "--evaluate-every", 2, "--checkpoint-every", 2, "--log-every", 3]
    assert train(*options) == 0
    lines = read_metrics(Path("run/metrics.jsonl"))
    assert [line["step"] for line in lines] == [2, 3, 4]
    assert ["frechet" in line for line in lines] == [True, False, True]
    best = Checkpoints("run/checkpoints").best()
    distances = {2: lines[0]["frechet"], 4: lines[2]["frechet"]}
    assert best.name == f"step-{min(distances, key=distances.get):08d}.safetensors"
    # Looking at it changes nothing.
    assert train(*learning, out="unseen") == 0
    unseen, seen = last_state("unseen"), last_state("run")
    assert all(torch.equal(unseen[0][name], seen[0][name]) for name in unseen[0])


def test_images_of_one_class_teach_the_classifier_how_they_are_turned(monkeypatch):
    from interpolants.cli import image_quality

    seen = []
    monkeypatch.setattr(
        image_quality,
        "train_classifier",
        lambda images, labels, *, seed: seen.append(labels) or torch.nn.ReLU(),
    )
    images = torch.zeros(3, 1, 2, 2)
    for labels in ([0, 1, 0], [1, 1, 1]):
        split = Split(TensorImages(images, torch.tensor(labels)), None)
        image_quality.classifier_of(SimpleNamespace(device="cpu"), split, None)
    assert seen[0].tolist() == [0, 1, 0]
    assert seen[1] is None


def test_a_distance_of_images_at_infinity_is_none_and_stops_nothing():
    from interpolants.cli.image_quality import Frechet

    measure = object.__new__(Frechet)
    measure._extractor, measure._real = torch.nn.Flatten(), FeatureStatistics.of(torch.randn(9, 4))
    drawn = SimpleNamespace(images=torch.full((3, 1, 2, 2), torch.nan))
    assert math.isnan(measure(SimpleNamespace(batches=lambda n, size: [drawn])))


def test_a_step_sees_its_images_in_parts_with_their_labels_and_mirrored_when_asked(monkeypatch):
    from interpolants.cli import image_training

    made = []

    def recorded(images, batch_size, **options):
        made.append((batch_size, options["labels"], options["flip"], options["workers"]))
        return ImageBatches(images, batch_size, **{**options, "workers": 0})

    monkeypatch.setattr(image_training, "ImageBatches", recorded)
    assert train("--steps", 1, out="plain") == 0
    options = ["--accumulate", 4, "--flip", "--conditional", "--workers", 2]
    assert train("--steps", 1, *options, out="other") == 0
    assert made == [(8, False, False, 0), (2, True, True, 2)]


def test_tensorboard_is_written_when_asked():
    pytest.importorskip("tensorboard")
    assert train("--steps", 1, "--tensorboard") == 0
    assert any("tfevents" in name for name in os.listdir("run/tensorboard"))
