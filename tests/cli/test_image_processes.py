import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from interpolants.cli import main
from interpolants.cli.image_folder import read_metrics
from interpolants.training import Checkpoints, load_checkpoint

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked and killed as POSIX has it")

SMALL = (
    "digits --width 8 --multipliers 1 --blocks 1 --attention --heads 1 --batch-size 8 --sample-steps 2 "
    "--picture-every 0 --warm-up 3 --decay none --no-conditional --dropout 0.2 --device cpu --resume"
).split()
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(*options, out="run"):
    return ["train", *SMALL, "--out", out, *map(str, options)]


def state(run):
    tensors, metadata, _ = Checkpoints(Path(run) / "checkpoints").latest()
    return tensors, json.loads(metadata["training"])


def assert_same_state(run, other):
    (tensors, values), (others, their_values) = state(run), state(other)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert values == their_values


def killed_at(moment, arguments):
    """Run a command in a child that is killed at some moment; return whether it was."""
    child = os.fork()
    if child == 0:
        _die_at(moment)
        os._exit(main(arguments))
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def _die_at(moment):
    """Kill this process as it is about to put its file number ``moment // 2`` in place, or just after."""
    real, seen = Path.replace, 0

    def replace(self, target):
        nonlocal seen
        if seen == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        done = real(self, target)
        if seen + 1 == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 2
        return done

    Path.replace = replace


@pytest.mark.slow
def test_a_run_killed_at_any_file_ends_as_if_it_had_not_been_killed():
    options = ("--steps", 5, "--checkpoint-every", 2, "--log-every", 1)
    assert main(command(*options, out="whole")) == 0
    kills = 0
    for moment in range(40):
        run = f"run-{moment}"
        if not killed_at(moment, command(*options, out=run)):
            break
        kills += 1
        # And once more on the way.
        killed_at(5, command(*options, out=run))
        assert main(command(*options, out=run)) == 0
        assert_same_state(run, "whole")
        lines = read_metrics(Path(run) / "metrics.jsonl")
        assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
        assert not list(Path(run).rglob("*.partial"))
    # Configuration, record, figures, three checkpoints, two pictures: before and after each.
    assert kills >= 14


@pytest.mark.slow
def test_a_run_that_is_told_to_stop_saves_and_can_go_on():
    options = ("--steps", 100_000, "--checkpoint-every", 50_000, "--log-every", 1)
    for number, code in ((signal.SIGTERM, 0), (signal.SIGINT, 130)):
        with subprocess.Popen(
            [sys.executable, "-m", "interpolants", *command(*options)], stderr=subprocess.PIPE, text=True
        ) as running:
            begun = len(read_metrics(Path("run/metrics.jsonl")))
            deadline = time.monotonic() + 60
            while len(read_metrics(Path("run/metrics.jsonl"))) < begun + 3 and time.monotonic() < deadline:
                time.sleep(0.05)
            for _ in range(3):  # An impatient user: the second and third must not cost what was learned.
                running.send_signal(number)
            message = running.stderr.read()
            assert running.wait(60) == code
        steps = int(re.search(r"stopped after (\d+) steps; --resume goes on", message)[1])
        assert state("run")[1]["step"] == steps
        assert [line["step"] for line in read_metrics(Path("run/metrics.jsonl"))] == list(range(1, steps + 1))
    assert main(command("--steps", steps + 1, "--checkpoint-every", 50_000, "--log-every", 1)) == 0
    assert main(command("--steps", steps + 1, "--log-every", 1, out="whole")) == 0
    assert_same_state("run", "whole")


@pytest.mark.slow
def test_two_processes_train_as_one_and_draw_the_same_images():
    pytest.importorskip("accelerate")
    options = ("--steps", 3, "--log-every", 1, "--dropout", 0, "--conditional", "--class-dropout", 0)
    assert main(command(*options, out="one")) == 0
    subprocess.run([*LAUNCHER, "interpolants", *command(*options, out="two")], check=True)
    (one, _), (two, values) = state("one"), state("two")
    assert values["processes"] == 2
    for name in one:
        if name.startswith("objective"):
            # Gradients are averaged in another order, which Adam's division passes on to the weights.
            torch.testing.assert_close(two[name], one[name], rtol=0, atol=1e-6)
    assert [line["step"] for line in read_metrics(Path("two/metrics.jsonl"))] == [1, 2, 3]
    assert json.loads(Path("two/run.json").read_text())["starts"][0]["processes"] == 2
    sampling = ["sample", "one", "--number", "22", "--batch-size", "5", "--steps", "2", "--device", "cpu"]
    assert main([*sampling, "--out", "alone.npz"]) == 0
    subprocess.run([*LAUNCHER, "interpolants", *sampling, "--out", "shared.npz"], check=True)
    with np.load("alone.npz") as alone, np.load("shared.npz") as shared:
        for name in ("images", "labels"):
            np.testing.assert_array_equal(alone[name], shared[name])
    assert sorted(os.listdir()) == ["alone.npz", "one", "shared.npz", "two"]
    load_checkpoint("two/checkpoints/step-00000003.safetensors")
