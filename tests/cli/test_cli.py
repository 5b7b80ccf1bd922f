import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image

from interpolants.cli import main
from interpolants.cli.runs import DIFFUSION_FILES, FILES
from interpolants.training import load_checkpoint

TINY = "--steps 40 --points 400 --samples 24 --sample-steps 8 --width 8 --depth 1".split()


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


def refused(capsys, *arguments):
    """The one line that bad input gets; nothing else may be printed or left behind."""
    before = sorted(os.listdir())
    assert exit_code(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sorted(os.listdir()) == before
    lines = [line for line in captured.err.splitlines() if not line.startswith("note:")]
    assert len(lines) == 1
    return lines[0]


def picture(path, value=255, mode="L", size=(8, 8)):
    Image.new(mode, size, value).save(path)
    return path


@pytest.mark.parametrize(
    "command", [[], ["demo"], ["train"], ["train", "sde-2d"], ["sample"], ["check"]], ids=" ".join
)
def test_help_fits_a_screen_and_has_an_example(command, capsys):
    assert exit_code(*command, "--help") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 55  # training has 26 options
    assert max(map(len, lines)) <= 90
    assert any("Example: interpolants" in line for line in lines)


@pytest.fixture
def _few_points(monkeypatch):
    from interpolants.cli import diffusion

    for name, value in (("_POINTS", 200), ("_PIXELS", 8), ("_LINE_STEPS", 20)):
        monkeypatch.setattr(diffusion, name, value)


@pytest.mark.slow
@pytest.mark.usefixtures("_few_points")
def test_the_preset_for_diffusions_writes_its_pictures_and_figures(capsys):
    assert exit_code("train", "sde-2d", *TINY, "--out", "run") == 0
    basic = {"checkpoint.safetensors", "config.json", "metrics.json", "loss.png", "chain.png"}
    assert set(os.listdir("run")) == basic | set(DIFFUSION_FILES)
    with open("run/metrics.json") as file:
        metrics = json.load(file)
    nats = metrics["negative_log_likelihood"]
    assert nats["floor"] == pytest.approx(np.log(32))
    # Hardly trained, so clearly above the floor, below which nothing can be.
    assert nats["value"] > nats["floor"] + 5 * nats["standard_error"]
    assert metrics["negative_log_likelihood_bound_of_sde"]["value"] > nats["floor"]
    assert all(distance > 0 for distance in metrics["sliced_wasserstein2_of"].values())
    printed = capsys.readouterr().out
    assert f"{nats['value']:.4f}" in printed
    for name in DIFFUSION_FILES:
        assert f"run/{name}" in printed
    assert exit_code("sample", "run", "--n", 7, "--steps", 4) == 0
    with np.load("samples.npz") as points:
        assert points["x1"].shape == (7, 2)


def test_an_unknown_preset_is_refused_in_one_line(capsys):
    assert "unknown preset 'sde-3d'; known: iadb-2d, sde-2d" in refused(capsys, "train", "sde-3d", *TINY)


def test_a_preset_is_a_word_of_its_own_and_the_first(capsys):
    # As a folder's name it is none, and behind other settings it would come too late for its defaults.
    assert exit_code("train", "--out", "sde-2d", *TINY) == 0
    with open("sde-2d/config.json") as file:
        assert json.load(file)["p0"] == "shipped"
    capsys.readouterr()
    assert "write the preset first" in refused(capsys, "train", *TINY, "--out", "run", "sde-2d")


def test_a_denoiser_without_latent_noise_is_refused(capsys):
    assert "needs latent noise" in refused(capsys, "train", *TINY, "--learn", "both")


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--learn all", "unknown --learn value 'all'; known: velocity, both"),
        ("--schedule linear", "unknown schedule 'linear'; known: constant, cosine"),
        ("--activation tanh", "unknown activation 'tanh'; known: relu, silu"),
        ("--inverse-variance -1", "--inverse-variance must not be negative; got -1.0"),
    ],
)
def test_a_setting_of_the_training_that_is_none_is_refused(option, message, capsys):
    assert message in refused(capsys, "train", *TINY, *option.split())


@pytest.mark.slow
def test_the_demo_writes_every_picture_and_figure(capsys):
    assert exit_code("demo", *TINY, "--out", "run") == 0
    assert sorted(os.listdir("run")) == sorted(FILES)
    with open("run/metrics.json") as file:
        metrics = json.load(file)
    for name in ("wasserstein2", "wasserstein2_floor", "sliced_wasserstein2", "sliced_wasserstein2_floor"):
        assert 0 < metrics[name] < 3
    assert metrics["steps"] == 40
    assert metrics["steps_per_second"] == pytest.approx(40 / metrics["seconds"])
    with Image.open("run/animation.gif") as animation:
        assert animation.n_frames > 10
    for name in ("panel", "field", "chain", "loss"):
        with Image.open(f"run/{name}.png") as drawn:
            drawn.load()
    with open("run/config.json") as file:
        assert json.load(file)["steps"] == 40
    assert "run/animation.gif" in capsys.readouterr().out


@pytest.mark.slow
def test_sampling_a_checkpoint_carries_points_and_back(capsys):
    assert exit_code("train", *TINY, "--out", "run") == 0
    assert exit_code("sample", "run", "--n", 50, "--steps", 4) == 0
    forward = np.load("samples.npz")
    assert forward["x0"].shape == forward["x1"].shape == (50, 2)
    assert np.abs(forward["x1"] - forward["x0"]).max() > 0
    assert exit_code("sample", "run/checkpoint.safetensors", "--n", 50, "--steps", 4, "--overwrite") == 0
    np.testing.assert_array_equal(np.load("samples.npz")["x1"], forward["x1"])
    assert exit_code("sample", "run", "--n", 9, "--reverse", "--out", "back.npz") == 0
    assert np.load("back.npz")["x0"].shape == (9, 2)
    capsys.readouterr()
    assert "exists already" in refused(capsys, "sample", "run")
    assert "must be at least 1" in refused(capsys, "sample", "run", "--n", 0, "--overwrite")
    assert "unknown ODE method 'eular'" in refused(
        capsys, "sample", "run", "--method", "eular", "--overwrite"
    )


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    weights = {}
    for out, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert exit_code("train", *TINY, "--out", out, "--seed", seed) == 0
        weights[out], _ = load_checkpoint(f"{out}/checkpoint.safetensors")
    assert all(torch.equal(weights["a"][name], weights["b"][name]) for name in weights["a"])
    assert any(not torch.equal(weights["a"][name], weights["c"][name]) for name in weights["a"])


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "--interpolant trigonometric --gamma brownian:0.1 --loss quadratic --antithetic",
        "--interpolant encoding-decoding --method heun --coupling optimal-transport",
        "--interpolant variance-preserving --gamma sine-squared",
    ],
)
def test_every_option_trains(options):
    assert exit_code("train", *TINY, *options.split(), "--out", "run") == 0


def test_an_own_interpolant_trains_by_name_and_is_sampled(capsys):
    with open("mine_for_training.py", "w") as file:
        file.write(
            "from interpolants import SpatiallyLinear\n"
            "class Squares(SpatiallyLinear):\n"
            "    def alpha(self, t): return (1 - t) ** 2\n"
            "    def beta(self, t): return t**2\n"
        )
    assert exit_code("train", *TINY, "--interpolant", "mine_for_training:Squares", "--out", "run") == 0
    assert exit_code("sample", "run", "--n", 5) == 0


def test_an_existing_run_is_refused_and_overwritten_only_when_asked(capsys):
    assert exit_code("train", *TINY, "--out", "run") == 0
    with open("run/mine.txt", "w") as file:
        file.write("keep me")
    capsys.readouterr()
    assert "holds a run already" in refused(capsys, "train", *TINY, "--out", "run")
    assert exit_code("train", *TINY, "--out", "run", "--overwrite") == 0
    with open("run/mine.txt") as file:
        assert file.read() == "keep me"


def test_a_folder_that_is_no_run_is_never_overwritten(capsys):
    os.mkdir("precious")
    picture("precious/holiday.png")
    message = refused(capsys, "train", *TINY, "--out", "precious", "--overwrite")
    assert "precious holds something that is no run" in message


def test_pictures_that_cannot_be_used_are_refused(capsys):
    with open("text.png", "w") as file:
        file.write("not a picture")
    assert "text.png" in refused(capsys, "demo", *TINY, "--p0", "text.png")
    assert "missing.png" in refused(capsys, "demo", *TINY, "--p1", "missing.png")
    assert "black" in refused(capsys, "demo", *TINY, "--p0", picture("black.png", 0))


@pytest.mark.parametrize(
    ("mode", "value", "said"),
    [("RGB", (250, 30, 30), "lumin"), ("I;16", 40_000, "16-bit"), ("LA", (255, 100), "transparen")],
)
def test_pictures_of_other_kinds_are_converted_with_a_note(mode, value, said, capsys):
    image = Image.new(mode, (8, 8), value)
    image.putpixel((0, 0), (0, 0, 0) if mode == "RGB" else (0, 0) if mode == "LA" else 0)
    image.save("other.png")
    assert exit_code("train", *TINY, "--p0", "other.png", "--out", "run") == 0
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note:")]
    assert len(notes) == 1
    assert said in notes[0]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("--interpolant lineal", "unknown interpolant 'lineal'; known: linear, trigonometric"),
        ("--gamma browny", "unknown gamma 'browny'; known: zero, brownian"),
        ("--gamma brownian:-1", "positive finite a"),
        ("--gamma quadratic:2", "takes no number"),
        ("--loss l2", "unknown loss 'l2'; known: regression, quadratic"),
        ("--coupling ot", "unknown coupling 'ot'; known: independent, optimal-transport"),
        ("--method eular", "unknown ODE method 'eular'"),
        ("--steps 0", "--steps must be at least 1"),
        ("--learning-rate -1", "--learning-rate must be positive"),
        ("--device tpu9", "--device tpu9 cannot be used here"),
        ("--interpolant nowhere:Mine", "cannot make the interpolant nowhere:Mine"),
        ("--interpolant interpolants:Zero", "not an Interpolant"),
        ("--seed -1", "--seed must lie in"),
    ],
)
def test_bad_values_are_refused_in_one_line(options, said, capsys):
    sizes = [part for part in TINY if not (options.startswith("--steps") and part in ("--steps", "40"))]
    assert said in refused(capsys, "demo", *sizes, *options.split())


def test_words_that_are_no_numbers_leave_by_code_2(capsys):
    assert exit_code("train", "--steps", "many") == 2
    assert exit_code("trian") == 2
    assert os.listdir() == []


def test_a_file_in_the_way_is_refused(capsys):
    picture("file.png")
    assert "is no folder" in refused(capsys, "train", *TINY, "--out", "file.png")
    assert "not a folder" in refused(capsys, "train", *TINY, "--out", "file.png/run")


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_a_folder_that_cannot_be_written_is_refused(capsys, monkeypatch):
    # Root may write anywhere, so the refusal of the system is imitated.
    def denied(*arguments, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("interpolants.cli.usage.tempfile.TemporaryFile", denied)
    assert "cannot write into" in refused(capsys, "train", *TINY, "--out", "run")


def test_checkpoints_that_are_none_are_refused(capsys):
    assert "no checkpoint at" in refused(capsys, "sample", "nothing.safetensors")
    picture("run.png")
    assert "not a checkpoint" in refused(capsys, "sample", "run.png")


def test_check_tells_good_from_broken(capsys):
    with open("mine_to_check.py", "w") as file:
        file.write(
            "from interpolants import SpatiallyLinear\n"
            "class Good(SpatiallyLinear):\n"
            "    def alpha(self, t): return 1 - t**3\n"
            "    def beta(self, t): return t**3\n"
            "class Broken(Good):\n"
            "    def beta_derivative(self, t): return 2 * t**2\n"
        )
    assert exit_code("check", "mine_to_check:Good") == 0
    assert capsys.readouterr().out == "Good keeps every promise\n"
    assert exit_code("check", "mine_to_check:Broken") == 1
    assert "beta_derivative must be the time derivative" in capsys.readouterr().out
    assert "package.module:Class" in refused(capsys, "check", "mine_to_check")
    assert "no attribute 'Absent'" in refused(capsys, "check", "mine_to_check:Absent")


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="the interrupt is sent as a POSIX signal")
def test_an_interrupt_keeps_what_was_learned():
    command = [sys.executable, "-m", "interpolants", "train", "--out", "run", "--points", "400"]
    with subprocess.Popen([*command, "--steps", "10000000"], stderr=subprocess.PIPE, text=True) as running:
        # The progress bar shows its first steps once training has begun.
        seen = ""
        while "steps/s, loss" not in seen and running.poll() is None:
            seen += running.stderr.read(64)
        time.sleep(0.3)
        for _ in range(3):  # An impatient user: the second and third must not cost what was learned.
            running.send_signal(signal.SIGINT)
            time.sleep(0.01)
        message = running.stderr.read()
        assert running.wait(60) == 130
    assert "what was learned is in run/checkpoint.safetensors" in message
    assert sorted(os.listdir("run")) == ["checkpoint.safetensors", "config.json"]
    assert exit_code("sample", "run", "--n", 4) == 0


@pytest.mark.slow
@pytest.mark.parametrize("gamma", ["sine-squared", "zero"])
def test_the_demo_draws_paths_through_a_bottleneck(gamma, capsys):
    arguments = ["--interpolant", "encoding-decoding", "--gamma", gamma, "--out", "run"]
    assert exit_code("demo", *TINY, *arguments) == 0
    assert "run/loss.png" in capsys.readouterr().out
    # Without latent noise every path passes through the origin, and there is no chain to draw.
    assert os.path.exists("run/chain.png") == (gamma == "sine-squared")


def test_a_training_that_diverges_says_so_and_keeps_the_checkpoint(capsys):
    assert exit_code("train", *TINY, "--learning-rate", "1e30", "--out", "run") == 2
    assert "the training diverged" in capsys.readouterr().err
    assert os.path.isfile("run/checkpoint.safetensors")


def test_a_learnable_interpolant_is_saved_and_loaded_with_what_it_learned():
    with open("mine_learnable.py", "w") as file:
        file.write(
            "import torch\n"
            "from interpolants import SpatiallyLinear\n"
            "class Learnt(torch.nn.Module, SpatiallyLinear):\n"
            "    def __init__(self):\n"
            "        super().__init__()\n"
            "        self.power = torch.nn.Parameter(torch.tensor(1.5))\n"
            "    def alpha(self, t): return 1 - t**self.power\n"
            "    def beta(self, t): return t**self.power\n"
        )
    assert exit_code("train", *TINY, "--interpolant", "mine_learnable:Learnt", "--out", "run") == 0
    tensors, _ = load_checkpoint("run/checkpoint.safetensors")
    assert tensors["interpolant.power"] != 1.5
    assert exit_code("sample", "run", "--n", 5) == 0
