"""A folder of checkpoints survives what happens to it."""

import os
import pickle
import resource
import subprocess
import sys
import textwrap

import pytest
import torch

from interpolants.training import Checkpoints, DamagedCheckpoint, checkpoint, load_checkpoint, save_checkpoint


def saved(folder, steps, keep=3, figures=None):
    checkpoints = Checkpoints(folder, keep=keep)
    for k, step in enumerate(steps):
        figure = None if figures is None else figures[k]
        checkpoints.save(step, {"a": torch.full((5,), float(step))}, {"step": str(step)}, figure=figure)
    return checkpoints


def names(checkpoints):
    return [int(path.stem.split("-")[1]) for path in checkpoints.paths()]


def test_the_last_are_kept(tmp_path):
    assert names(saved(tmp_path, range(0, 100, 10))) == [70, 80, 90]
    assert names(saved(tmp_path / "one", range(5), keep=1)) == [4]
    with pytest.raises(ValueError, match="at least 1; got 0"):
        Checkpoints(tmp_path, keep=0)


def test_the_best_is_kept_whatever_its_age(tmp_path):
    checkpoints = saved(tmp_path, range(5), keep=2, figures=[3.0, 1.0, float("nan"), 2.0, 5.0])
    assert names(checkpoints) == [1, 3, 4]
    assert checkpoints.best() == checkpoints.path(1)
    # Nothing but the files is needed to know it.
    later = Checkpoints(tmp_path, keep=1)
    later.save(5, {"a": torch.ones(5)}, {})
    assert names(later) == [1, 5]


def test_the_latest_is_the_highest_step_not_the_youngest_file(tmp_path):
    checkpoints = saved(tmp_path, [30, 20], keep=5)
    tensors, metadata, path = checkpoints.latest()
    assert metadata["step"] == "30"
    assert path == checkpoints.path(30)
    assert torch.equal(tensors["a"], torch.full((5,), 30.0))
    assert Checkpoints(tmp_path / "none").latest() is None


def test_every_truncation_is_recognised_and_the_one_before_used(tmp_path):
    checkpoints = saved(tmp_path, [1, 2], keep=5)
    whole = checkpoints.path(2).read_bytes()
    cuts = {round(k * (len(whole) - 1) / 49) for k in range(50)}
    assert len(cuts) == 50
    for cut in sorted(cuts):
        checkpoints.path(2).write_bytes(whole[:cut])
        with pytest.warns(UserWarning, match=r"step-00000002.*damaged.*going on from .*step-00000001"):
            assert checkpoints.latest()[1]["step"] == "1"


def test_every_altered_byte_is_recognised(tmp_path):
    path = save_checkpoint(tmp_path / "x.safetensors", {"a": torch.arange(4.0)}, {"config": '{"b": 1}'})
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(DamagedCheckpoint):
            load_checkpoint(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(path)
    path.write_bytes(whole)
    assert load_checkpoint(path)[1] == {"config": '{"b": 1}'}


def test_text_that_looks_like_the_checksum_does_no_harm(tmp_path):
    text = {"note": '"checksum":"' + "0" * 64 + '"', 'checksum":"': "0" * 64}
    path = save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, text)
    assert load_checkpoint(path)[1] == text
    with pytest.raises(ValueError, match="the format's own"):
        save_checkpoint(path, {}, {"checksum": "0"})


def test_when_all_are_damaged_it_says_so(tmp_path):
    checkpoints = saved(tmp_path, [1, 2])
    for path in checkpoints.paths():
        path.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=r"none of the checkpoints .* is whole"):
        checkpoints.latest()


def test_a_malicious_pickle_is_refused_unexecuted(tmp_path):
    class Malicious:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    checkpoints = saved(tmp_path / "run", [1])
    for write in (pickle.dumps, lambda thing: _torch_pickle(thing, tmp_path)):
        checkpoints.path(2).write_bytes(write(Malicious()))
        with pytest.warns(UserWarning, match=r"is not a checkpoint"):
            assert checkpoints.latest()[1]["step"] == "1"
    assert not (tmp_path / "executed").exists()


def _torch_pickle(thing, folder):
    torch.save(thing, folder / "pickle.pt")
    return (folder / "pickle.pt").read_bytes()


def test_keys_that_look_like_the_checksum_do_no_harm(tmp_path):
    text = {
        'x"checksum': "0" * 70,
        ',"checksum': "1" * 70,
        '{"checksum': "2" * 70,
        "unicode \u2028 é": "\x00😀",
    }
    # The order of the header is another every time.
    for _ in range(20):
        path = save_checkpoint(tmp_path / "ü.safetensors", {'x"checksum': torch.ones(1)}, text)
        assert load_checkpoint(path)[1] == text


def test_other_things_in_the_folder_are_passed_over(tmp_path):
    checkpoints = saved(tmp_path, [1], keep=1)
    (tmp_path / "step-00000009.safetensors").mkdir()
    (tmp_path / "step-00000008.safetensors").symlink_to(tmp_path / "nowhere")
    for name in ("step-7.safetensors.bak", "step-.safetensors", "best.safetensors", "notes.txt"):
        (tmp_path / name).write_text("not ours")
    assert checkpoints.latest()[2] == checkpoints.path(1)
    assert names(saved(tmp_path, [2], keep=1)) == [2]
    assert len(list(tmp_path.iterdir())) == 7


def test_steps_of_more_than_eight_digits_are_sorted_as_numbers(tmp_path):
    checkpoints = saved(tmp_path, [99_999_999, 100_000_000, 123_456_789_012], keep=2)
    assert names(checkpoints) == [100_000_000, 123_456_789_012]
    assert checkpoints.step(checkpoints.latest()[2]) == 123_456_789_012


def test_equal_and_infinite_figures_keep_one_best(tmp_path):
    checkpoints = saved(tmp_path, range(4), keep=1, figures=[float("inf"), 2.0, 2.0, 3.0])
    assert checkpoints.best() == checkpoints.path(1)
    assert names(checkpoints) == [1, 3]


def test_the_figure_is_no_name_for_other_text(tmp_path):
    with pytest.raises(ValueError, match="'figure' is the format's own"):
        Checkpoints(tmp_path).save(1, {"a": torch.ones(1)}, {"figure": "0.1"})
    assert list(tmp_path.iterdir()) == []


def test_one_removed_while_it_is_looked_for_is_passed_over(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1, 2])
    found = checkpoints.paths()
    monkeypatch.setattr(checkpoints, "paths", lambda: found)
    checkpoints.path(2).unlink()
    assert checkpoints.latest()[2] == checkpoints.path(1)


def test_a_disk_that_cannot_be_read_counts_as_damage(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, [1, 2])

    def broken(path, real=checkpoint._is_whole):
        if path == checkpoints.path(2):
            raise OSError(5, "Input/output error")
        return real(path)

    monkeypatch.setattr(checkpoint, "_is_whole", broken)
    with pytest.warns(UserWarning, match=r"step-00000002.*Input/output error.*going on from .*step-00000001"):
        assert checkpoints.latest()[2] == checkpoints.path(1)


def test_the_file_is_on_the_disk_before_it_has_its_name_and_the_folder_after(tmp_path, monkeypatch):
    events, sync, replace = [], os.fsync, os.replace

    def noted(descriptor):
        events.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")
        sync(descriptor)

    monkeypatch.setattr("os.fsync", noted)
    monkeypatch.setattr("os.replace", lambda *paths: events.append("name") or replace(*paths))
    monkeypatch.setattr("pathlib.Path.replace", lambda path, to: os.replace(path, to))
    save_checkpoint(tmp_path / "x.safetensors", {"a": torch.ones(1)}, {})
    assert events == ["file", "name", "folder"]


def test_a_writer_that_lives_is_not_cleared_away(tmp_path):
    script = """
        import sys, torch
        from interpolants.training import save_checkpoint
        import interpolants.training.checkpoint as checkpoint
        checksum = checkpoint._checksum
        def waiting(file):
            print("writing", flush=True)
            sys.stdin.readline()
            return checksum(file)
        checkpoint._checksum = waiting
        save_checkpoint(sys.argv[1], {"a": torch.ones(1)}, {"by": "other"})
    """
    other = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path / "step-00000005.safetensors")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout.readline() == "writing\n"
        checkpoints = saved(tmp_path, [1])
        assert len(list(tmp_path.iterdir())) == 2
        other.communicate("\n")
    assert other.returncode == 0
    assert checkpoints.latest()[1] == {"by": "other"}


def test_what_a_killed_writer_left_is_cleared(tmp_path):
    checkpoints = saved(tmp_path, [1])
    (tmp_path / ".step-00000002.safetensors.123.partial").write_bytes(b"half")
    assert checkpoints.latest()[1]["step"] == "1"
    checkpoints.save(2, {"a": torch.ones(1)}, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "step-00000001.safetensors",
        "step-00000002.safetensors",
    ]


def test_a_full_disk_leaves_the_last_good_one(tmp_path):
    script = """
        import resource, sys, torch
        from interpolants.training import Checkpoints
        checkpoints = Checkpoints(sys.argv[1])
        checkpoints.save(1, {"a": torch.ones(10)}, {"step": "1"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            checkpoints.save(2, {"a": torch.ones(100_000)}, {"step": "2"})
        except OSError as error:
            print("refused:", error)
    """
    # A limit on the size of files fails the write as a full disk does, without needing one.
    assert resource.RLIMIT_FSIZE is not None
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)], capture_output=True, text=True
    )
    assert "refused:" in done.stdout, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert Checkpoints(tmp_path).latest()[1]["step"] == "1"
