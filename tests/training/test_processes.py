"""Several processes train as one does; a process that dies, and a sharded network, are survived."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from process_worker import OPTIONS, Blocks, make

from interpolants.training import Accelerated, Alone, Checkpoints

WORKER = Path(__file__).with_name("process_worker.py")


def launch(what, folder, *options, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    # With the launcher's own store, a group that is restarted may wait for ever: pytorch issue 135712.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    done = subprocess.run(
        [*command, *options, str(WORKER), what, str(folder)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    launch("equal", folder)
    return folder


def losses(folder, name):
    return torch.tensor(json.loads((folder / f"{name}.json").read_text()))


def in_one_process(kind, engine=None):
    trainer = make(engine or Alone(), **OPTIONS[kind])
    return torch.stack([step.loss for step in trainer]), trainer


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
@pytest.mark.parametrize("shared", ["whole", "sharded"])
def test_two_processes_have_the_losses_of_one_with_the_same_global_minibatch(two, kind, shared):
    found = losses(two, f"{kind}-{shared}-2")
    assert len(found) == 20
    expected, trainer = in_one_process(kind)
    # A millionth of losses up to ten: sums in another order, in single precision.
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    tensors, _, _ = Checkpoints(two / f"{kind}-{shared}-2").latest()
    for name, value in trainer.state()[0].items():
        if not name.startswith("random/"):
            torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_two_processes_continue_where_they_stopped(two, shared):
    whole = losses(two, f"all-{'sharded' if shared else 'whole'}-2")
    assert torch.equal(losses(two, f"continued-{shared}-2"), whole[9:])


@pytest.mark.slow
def test_one_process_loads_what_a_sharded_training_saved_and_goes_on(two):
    trainer = make(Alone(), **OPTIONS["all"])
    with pytest.warns(UserWarning, match="written by 2 processes and there are 1"):
        assert trainer.resume(Checkpoints(two / "stopped-True-2")) == 9
    found = torch.stack([step.loss for step in trainer])
    torch.testing.assert_close(found, losses(two, "all-sharded-2")[9:], rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_a_sharded_network_in_bf16_learns_the_path_that_a_whole_one_learns(tmp_path):
    launch("bf16", tmp_path)
    whole, sharded = (json.loads((tmp_path / f"{kind}.json").read_text()) for kind in (False, True))
    assert whole["types"] == ["torch.float32"]
    # The weights are gathered in 16 bits; times and points would lose in them what is to be learnt.
    assert sharded["types"] == ["torch.bfloat16", "torch.float32"]
    # Sums in another order; with times and points in bf16 the losses would differ by a thousandth and more.
    assert sharded["losses"][:3] == pytest.approx(whole["losses"][:3], rel=2e-4)
    # Averages are used in full precision.
    assert torch.tensor(sharded["answer"]).bfloat16().tolist() != sharded["answer"]


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    folder = tmp_path_factory.mktemp("apart")
    launch("apart", folder)
    return [json.loads((folder / f"apart-{index}.json").read_text()) for index in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_processes_that_begin_with_other_weights_train_those_of_the_first(apart, shared):
    torch.manual_seed(0)
    network = Blocks()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter)
    expected = network.first.layers[0].weight.tolist()
    for found in apart:
        assert found[f"weights-{shared}"] == expected
    # The first process's is the one that is written.
    assert apart[0][f"average-{shared}"] == expected


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_when_the_first_process_cannot_write_all_of_them_hear_of_it(apart, shared):
    assert apart[0][f"failed-{shared}"].startswith("ValueError: the metadata 'format' is the format's own")
    assert apart[1][f"failed-{shared}"].startswith("OSError: process 0 could not write")


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_processes_that_find_different_checkpoints_do_not_go_on(apart, shared):
    for found in apart:
        assert "different steps, [1, -1] (-1 for none)" in found[f"different-{shared}"]


@pytest.mark.slow
@pytest.mark.parametrize("shared", [False, True])
def test_every_process_says_what_is_broken_of_the_whole_network(apart, shared):
    for found in apart:
        assert found[f"infinite-{shared}"].startswith("NonFiniteLoss: the loss of step 2 is not finite")
        assert "parameters with a NaN or infinity: 1 of 12" in found[f"infinite-{shared}"]


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_is_completed_by_the_launcher(tmp_path):
    launch("killed", tmp_path, "--max-restarts=3")
    tensors, _, path = Checkpoints(tmp_path / "checkpoints").latest()
    assert path.stem == "step-00000012"
    trainer = make(Alone(), steps=12)
    list(trainer)
    for name, value in trainer.state()[0].items():
        if not name.startswith("random/"):
            torch.testing.assert_close(tensors[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_all_processes_skip_a_step_that_one_of_them_finds_not_finite(tmp_path):
    launch("bad-loss", tmp_path)
    for index in (0, 1):
        assert json.loads((tmp_path / f"skipped-{index}.json").read_text()) == [False, True, False, False]


def test_one_accelerated_process_makes_the_steps_of_the_plain_loop():
    expected, plain = in_one_process("all")
    found, accelerated = in_one_process("all", Accelerated(cpu=True))
    assert torch.equal(found, expected)
    for one, other in zip(plain.network.parameters(), accelerated.network.parameters(), strict=True):
        assert torch.equal(one, other)


def test_unknown_precisions_are_refused():
    with pytest.raises(ValueError, match="unknown precision 'half'; known: no, bf16, fp16"):
        Accelerated(precision="half", cpu=True)
    with pytest.raises(ValueError, match="not in fp16"):
        Accelerated(precision="fp16", sharded=True, cpu=True)


@pytest.mark.slow
def test_bf16_trains_in_mixed_precision():
    script = """
        import sys; sys.path.insert(0, sys.argv[1])
        import torch
        from process_worker import OPTIONS, Blocks, make
        from interpolants.training import Accelerated, Alone
        seen = []
        for engine in (Alone(), Accelerated(precision="bf16", cpu=True)):
            trainer = make(engine, **OPTIONS["plain"])
            seen.append(torch.stack([step.loss for step in trainer]))
            assert all(p.dtype == torch.float32 for p in trainer.network.parameters())
        gap = float((seen[0] - seen[1]).abs().max())
        assert 1e-5 < gap < 0.5, gap  # Rounded to 8 bits in between, and so not the same.
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(WORKER.parent)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
