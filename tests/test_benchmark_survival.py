import contextlib
import json
import pickle
import random
import subprocess
import sys
import threading
import time

import pytest
import torch

pytest.importorskip("sklearn", reason="the benchmark takes its digits")
pytest.importorskip("safetensors", reason="checkpoints need it")
pytest.importorskip("matplotlib", reason="the command line draws")
pytest.importorskip("tyro", reason="the command line needs it")

from benchmarks import survival
from interpolants.training import Checkpoints, Step, save_checkpoint

OWN = 4711


@pytest.fixture
def folder(tmp_path):
    """A run that went on from step 5 and has made step 8 since."""
    (tmp_path / "checkpoints").mkdir()
    with_steps(tmp_path, 8)
    for step in (1, 5):
        Checkpoints(tmp_path / "checkpoints").path(step).touch()
    return tmp_path


def with_steps(folder, last):
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {k}}}\n' for k in range(1, last + 1)))


def phase(folder, start=5, metrics_before=0):
    return survival.phase_of(folder, OWN, start, metrics_before)


def test_a_kill_between_two_checkpoints_is_told_by_its_step(folder):
    assert phase(folder) == (survival.BETWEEN, 8)


def test_metrics_that_were_not_touched_are_those_of_another_process(folder):
    changed = survival.changed(folder / "metrics.jsonl")
    assert phase(folder, metrics_before=changed) == (survival.BEFORE, 5)


def test_a_process_that_made_no_step_was_killed_before_its_first(folder, tmp_path):
    with_steps(folder, 5)
    assert phase(folder) == (survival.BEFORE, 5)
    (folder / "metrics.jsonl").unlink()
    assert phase(folder, start=0) == (survival.BEFORE, 0)
    assert phase(tmp_path / "nowhere", start=0) == (survival.BEFORE, 0)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (f"checkpoints/.step-00000010.safetensors.{OWN}.partial", survival.WRITING),
        ("checkpoints/.step-00000010.safetensors.4710.partial", survival.BETWEEN),
        (f".metrics.jsonl.{OWN}.partial", survival.TEXT),
        (".metrics.jsonl.4710.partial", survival.BETWEEN),
    ],
)
def test_what_a_process_was_writing_is_told_by_its_own_unfinished_files(folder, name, found):
    (folder / name).touch()
    assert phase(folder) == (found, 8)


def test_a_checkpoint_that_was_due_and_is_not_there_was_being_collected(folder):
    with_steps(folder, 10)
    assert phase(folder) == (survival.COLLECTING, 10)
    (folder / "checkpoints" / "step-00000010.safetensors").touch()
    assert phase(folder) == (survival.REMOVING, 10)
    with_steps(folder, 11)
    assert phase(folder) == (survival.BETWEEN, 11)  # One before it was killed while it removed them.
    with_steps(folder, 10)
    (folder / "checkpoints" / "step-00000001.safetensors").unlink()
    assert phase(folder) == (survival.BETWEEN, 10)


def test_a_training_that_has_made_all_steps_was_killed_after_the_last(folder):
    (folder / "checkpoints" / "step-00000001.safetensors").unlink()
    (folder / "checkpoints" / f"step-{survival.STEPS:08d}.safetensors").touch()
    with_steps(folder, survival.STEPS)
    assert phase(folder) == phase(folder, start=survival.STEPS) == (survival.AFTER, survival.STEPS)


class Sleeper:
    """A run whose process only waits: until it is killed, or a moment only."""

    def __init__(self, folder, seconds, code=0):
        self.folder, self.seconds, self.code = folder, seconds, code
        self.begins, self.finished = 0, 0

    def start(self, *, new_interpreter):
        self.new_interpreter = new_interpreter
        self.process = Process(self.seconds, self.code)
        return self.process

    def begun(self):
        self.begins += 1
        return self.begins

    def reached(self):
        return 5

    def finish(self, process):
        process.join()
        self.finished += 1


class Process:
    def __init__(self, seconds, code):
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", f"import time; time.sleep({seconds}); raise SystemExit({code})"]
        )
        self.pid, self.joined = self._process.pid, []

    @property
    def exitcode(self):
        return self._process.poll()

    def is_alive(self):
        return self.exitcode is None

    def kill(self):
        self._process.kill()

    def join(self, seconds=None):
        self.joined.append(seconds)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)


def test_a_kill_reports_the_steps_that_are_lost_with_it(folder):
    run = Sleeper(folder, 60)
    original = run.start

    def start(**options):
        time.sleep(0.01)  # The clock of a file system ticks a few hundred times a second.
        with_steps(folder, 9)
        return original(**options)

    run.start = start
    found = survival.kill(run, 1, 4, 0.01, random.Random(0))
    assert found == survival.Kill(survival.BETWEEN, 9, 4, False)
    assert run.process.exitcode == -9
    assert 0 <= run.process.joined[0] <= 0.01


def test_a_kill_waits_for_the_step_that_was_drawn(folder):
    class Drawn(random.Random):
        def randint(self, least, most):
            assert (least, most) == (0, 4)
            return 4

    run = Sleeper(folder, 60)
    later = [threading.Timer(0.1 * k, with_steps, (folder, 6 + k)) for k in (1, 2, 3)]
    for timer in later:
        timer.start()
    assert survival.kill(run, 1, 4, 0.0, Drawn(0)).step == 9
    for timer in later:
        timer.join()


def test_one_kill_in_eight_waits_for_nothing(folder):
    run = Sleeper(folder, 60)
    run.begun = lambda: 1
    assert survival.kill(run, 8, 10**9, 0.0, random.Random(0)).step == 5


def test_one_process_in_eight_is_a_new_interpreter(folder):
    run = Sleeper(folder, 60)
    kinds = []
    for number in (6, 7, 8, 15):
        kinds.append(survival.kill(run, number, 0, 0.0, random.Random(0)).new_interpreter)
        assert run.new_interpreter == kinds[-1]
    assert kinds == [False, True, False, True]


def test_a_process_that_ended_by_itself_was_not_killed(folder):
    run = Sleeper(folder, 0)
    assert survival.kill(run, 1, 10**9, 60.0, random.Random(3)) is None
    assert run.finished == 1


def test_the_pace_is_that_of_the_last_steps(tmp_path):
    run = survival.Run(tmp_path / "run", 0)
    assert run.pace() == 0.5
    run.folder.mkdir()
    lines = [{"step": k, "seconds": 100.0 if k < 20 else 100 + 0.25 * k} for k in range(40)]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run.pace() == 0.25


def test_a_run_is_killed_as_often_as_asked_and_then_finishes(tmp_path, monkeypatch):
    run, asked = Sleeper(tmp_path, 0), []
    run.pace = lambda: 0.1
    run.reached = lambda: 60 * len(asked)

    def kill(run, number, steps, seconds, generator):
        asked.append((number, steps, seconds))
        return None if number == 3 else survival.Kill(survival.BETWEEN, 0, 0, False)

    monkeypatch.setattr(survival, "kill", kill)
    assert len(survival.survived(run, 2, random.Random(0))) == 2
    # Twice an equal part of the 300 steps that are left for this life and all after it.
    assert asked == [(0, 200, 0.2), (1, 240, 0.2)]
    assert run.finished == 1
    asked.clear()
    assert len(survival.survived(run, 9, random.Random(0))) == 3
    assert run.finished == 1


def test_a_command_that_fails_is_an_error_with_its_last_words(tmp_path):
    run = survival.Run(tmp_path / "run", 0)
    run.log.write_text("no room on the disk")
    with pytest.raises(RuntimeError, match=r"(?s)ended with 2 instead of 0.*no room on the disk"):
        run.finish(Process(0, 2))
    run.finish(Process(0, 0))


def test_a_damaged_checkpoint_after_a_kill_stops_the_benchmark(tmp_path):
    run = survival.Run(tmp_path / "run", 0)
    assert run.reached() == 0
    for step in (5, 10):
        run.checkpoints.save(step, {"weight": torch.ones(2)}, {})
    assert run.reached() == 10
    run.checkpoints.path(10).write_bytes(b"")
    with pytest.raises(UserWarning, match="going on from"):
        run.reached()


# ---- what is compared


def saved(path, **changes):
    tensors = {"a": torch.zeros(3), "b": torch.tensor(1)}
    texts = {"training": "x"}
    tensors |= {k: v for k, v in changes.items() if not isinstance(v, str)}
    texts |= {k: v for k, v in changes.items() if isinstance(v, str)}
    return save_checkpoint(path, tensors, texts)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, []),
        ({"a": torch.tensor([0.0, 0.0, -0.0])}, ["a"]),
        ({"a": torch.tensor([0.0, 0.0, 1e-45])}, ["a"]),
        ({"a": torch.zeros(3, dtype=torch.int32)}, ["a"]),
        ({"a": torch.zeros(3, 1)}, ["a"]),
        ({"c": torch.zeros(1)}, ["c"]),
        ({"training": "y"}, ["training"]),
        ({"config": "z"}, ["config"]),
    ],
    ids="same zero smallest dtype shape more text more_text".split(),
)
def test_checkpoints_differ_by_a_bit_a_kind_or_a_name(tmp_path, changes, names):
    one, other = saved(tmp_path / "one"), saved(tmp_path / "other", **changes)
    assert survival.differences(one, other) == survival.differences(other, one) == names


def test_many_differences_are_counted_and_one_is_named():
    assert survival.summary([]) == ""
    assert survival.summary(["a", "b"]) == "2, such as a"


def test_not_a_number_is_the_same_as_itself(tmp_path):
    x = torch.tensor([float("nan")])
    one, other = (saved(tmp_path / name, a=x) for name in ("one", "other"))
    assert survival.differences(one, other) == []


def test_curves_are_compared_without_their_seconds(tmp_path):
    run = survival.Run(tmp_path / "run", 0)
    run.folder.mkdir()
    lines = [{"step": 1, "loss": 0.5, "gradient_norm": 2.0, "seconds": 0.1}]
    (run.folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert survival.curve(run) == [(1, 0.5, 2.0)]


# ---- memory


def test_the_growth_of_a_line_is_its_slope_and_its_height():
    sizes = {step: 1_000 + 3 * step for step in (10, 20, 30, 40)}
    found = survival.growth(sizes)
    assert found["growth_bytes"] == 90
    assert found["bytes_per_step"] == pytest.approx(3)
    assert survival.growth({10: 5}) == {"growth_bytes": 0, "bytes_per_step": 0.0}


def test_memory_that_falls_again_has_grown():
    assert survival.growth({1: 10, 2: 17, 3: 9})["growth_bytes"] == 7


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_resident_memory_is_that_of_this_process():
    before = survival.resident()
    held = torch.ones(2**24)  # 64 MiB
    # Besides, the allocator keeps or gives back a few MiB of its own.
    assert abs(survival.resident() - before - 4 * held.numel()) < 8 * 2**20


class Counting:
    """A trainer whose steps do nothing."""

    def __init__(self, steps):
        self.steps, self.saved = steps, []

    def __iter__(self):
        for index in range(1, self.steps + 1):
            self.index = index
            yield Step(index, torch.zeros(()))

    def save(self, checkpoints):
        self.saved.append(self.index)


def test_memory_is_looked_at_ten_times_with_checkpoints_between(tmp_path, monkeypatch):
    trainer = Counting(2_000)
    sizes = iter(range(100, 110))
    monkeypatch.setattr(survival, "trainer_of", lambda steps, seed: trainer)
    monkeypatch.setattr(survival, "resident", lambda: next(sizes))
    found = survival.memory_measured(tmp_path, 2_000, 0)
    assert found["resident_bytes"] == {str(200 * (k + 1)): 100 + k for k in range(10)}
    assert trainer.saved == [500, 1_000, 1_500, 2_000]
    assert found["growth_bytes"] == 9
    assert found["bound_bytes"] == 2 * 2**20


# ---- damaged files


@pytest.fixture
def checkpoints(tmp_path):
    made = Checkpoints(tmp_path / "two", keep=2)
    for step in (5, 10):
        made.save(step, {"weight": torch.arange(100.0)}, {"training": "x"})
    return made


def test_every_cut_is_noticed_and_the_file_is_whole_again_afterwards(checkpoints):
    before = checkpoints.paths()[-1].read_bytes()
    assert survival.cuts_passed_over(checkpoints, 7) == 7
    assert checkpoints.paths()[-1].read_bytes() == before
    assert not survival.passed_over(checkpoints)


def test_a_cut_that_is_not_noticed_does_not_count(checkpoints, monkeypatch):
    before, last = checkpoints.paths()
    monkeypatch.setattr(checkpoints, "latest", lambda: ({}, {}, last))
    assert survival.cuts_passed_over(checkpoints, 7) == 0
    monkeypatch.setattr(checkpoints, "latest", lambda: ({}, {}, before))  # Without a warning
    assert survival.cuts_passed_over(checkpoints, 7) == 0


def test_the_traps_are_live(tmp_path):
    marker = tmp_path / "marker"
    made = survival.traps(marker)
    assert not marker.exists()
    pickle.loads(made["pickle"])
    marker.rmdir()
    (tmp_path / "trap.pt").write_bytes(made["torch.save"])
    torch.load(tmp_path / "trap.pt", weights_only=False)
    marker.rmdir()


def test_pickles_are_passed_over_unexecuted(checkpoints, tmp_path):
    assert survival.traps_passed_over(checkpoints, tmp_path / "marker") == 2
    assert not (tmp_path / "marker").exists()


def test_a_pickle_that_was_executed_does_not_count(checkpoints, tmp_path):
    (tmp_path / "marker").mkdir()
    assert survival.traps_passed_over(checkpoints, tmp_path / "marker") == 0


# ---- the rest


def test_what_takes_too_long_is_stopped():
    with pytest.raises(TimeoutError, match=r"nothing for 0\.1 s"), survival.no_hang(0.1):
        time.sleep(30)
    with survival.no_hang(0.1):
        pass
    time.sleep(0.2)  # No alarm is left behind.


GOOD = {
    "kills": {"different": "", "curves_different": 0, "files_left_over": 0},
    "memory": {"growth_bytes": 5, "bound_bytes": 5},
    "files": {
        "cuts": 3,
        "cuts_passed_over": 3,
        "pickles": 2,
        "pickles_passed_over": 2,
        "command_named_both": True,
        "command_different": "",
    },
    "loader": {
        "bound_seconds": 5.0,
        "rows": {"one of 1": {"seconds": 1.0, "named": True}, "one of 2": {"seconds": 5.0, "named": True}},
    },
}


def test_nothing_is_said_when_all_held():
    assert survival.failures(GOOD) == []


@pytest.mark.parametrize(
    ("part", "name", "value", "said"),
    [
        ("kills", "different", "1, such as a", "weights differ after kills"),
        ("kills", "curves_different", 1, "curves differ after kills"),
        ("kills", "files_left_over", 1, "killed processes left files"),
        ("memory", "growth_bytes", 6, "memory grows"),
        ("files", "cuts_passed_over", 2, "a cut file was taken"),
        ("files", "pickles_passed_over", 1, "a pickle was taken"),
        ("files", "command_named_both", False, "the command did not name both files"),
        ("files", "command_different", "1, such as a", "weights differ after a cut"),
        ("loader", "bound_seconds", 4.9, "a dead worker is noticed late"),
        ("loader", "rows", {"one of 1": {"seconds": 1.0, "named": False}}, "a dead worker is not named"),
    ],
)
def test_every_promise_that_is_broken_is_named(part, name, value, said):
    figures = {**GOOD, part: {**GOOD[part], name: value}}
    assert survival.failures(figures) == [said]
