"""What a training survives: kills at random moments, a long life, damaged files, a dead loader.

    nice -n 15 python -m benchmarks.survival [--kills 40] [--steps 20000] [--seed 0] [--save]

Kills. ``interpolants train digits`` with a small network (dropout, classes, two averages, a checkpoint every
5 steps) is killed by SIGKILL again and again and continued with --resume, until it has made its 300 steps.
Its last checkpoint is then compared, bit for bit, with that of the same command left alone: weights,
averages, optimiser, states of the random generators, position in the data; so is every loss in metrics.jsonl.
A kill comes a random moment after a random step, so that all of them spread over the whole run however busy
the machine is. Most processes are forked from one that has imported everything; one in eight is a new
interpreter. One kill in eight may fall even before the folder is made ready.

Memory. Resident memory of one process, ten times on the way through many steps of a ``Trainer`` with
averages, clipping, a schedule and a checkpoint every 500 steps.

Files. The last checkpoint of a folder cut off at places spread over it, or replaced by a pickle that would do
something: the one before must be used, with a warning that names both, and nothing executed. Once the
command itself goes on from such a folder.

Loader. One of the processes that make minibatches is killed: that must be an error, soon, and not a hang.

Exits with 1 when anything of this did not hold.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from statistics import linear_regression, mean
from typing import Any

import torch

from benchmarks.machine import save
from interpolants import Linear, Regression, Trainer
from interpolants.cli import main as interpolants
from interpolants.cli.image_folder import read_metrics
from interpolants.cli.image_runs import CHECKPOINTS, METRICS, RUN
from interpolants.data import Digits, ImageBatches
from interpolants.networks import Transformer
from interpolants.training import Checkpoints, WarmUp, load_checkpoint

STEPS, EVERY, KEEP = 300, 5, 2
OPTIONS = (
    f"--steps {STEPS} --checkpoint-every {EVERY} --keep {KEEP} --log-every 1 --picture-every 0 "
    "--width 16 --multipliers 1 --attention --dropout 0.1 --batch-size 16 --warm-up 50 --averages 0.9 0.99 "
    "--sample-steps 1"
).split()
KILLS_OF_A_RUN = 20
CUTS = 50
MARKS = 10
MOST_GROWTH = 2 * 2**20  # Bytes
MOST_SECONDS = 15.0  # Torch looks after its workers every 5.
HANGS = 120  # Seconds

BEFORE = "before its first step"
BETWEEN = "between checkpoints"
COLLECTING = "collecting a checkpoint"
WRITING = "writing a checkpoint"
REMOVING = "removing old checkpoints"
TEXT = "writing a text file"
AFTER = "after the last step"
PHASES = (BEFORE, BETWEEN, COLLECTING, WRITING, REMOVING, TEXT, AFTER)

PRELOADED = [
    "benchmarks.machine",
    "interpolants.cli.commands",
    "interpolants.cli.images",
    "interpolants.networks",
    "matplotlib.figure",
    "matplotlib.backends.backend_agg",
    "sklearn.datasets",
]


# ---------------------------------------------------------------------------------------------------- kills


@dataclass(frozen=True)
class Kill:
    phase: str
    step: int  # The last one made
    lost: int  # Steps to be made again
    new_interpreter: bool


class Run:
    """A run on the command line, in processes that may be killed.

    Args:
        folder: Where it is written.
        seed: Its seed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)
        self.folder = folder
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, keep=KEEP)
        self.log = folder.with_suffix(".log")
        self._arguments = ["train", "digits", *OPTIONS, "--seed", str(seed), "--out", str(folder), "--resume"]

    def start(self, *, new_interpreter: bool) -> BaseProcess:
        process = self._context.Process(
            target=command, args=(self._arguments, str(self.log), new_interpreter)
        )
        process.daemon = True  # It ends with this one.
        process.start()
        return process

    def finish(self, process: BaseProcess) -> None:
        """Wait for a process to end as it should.

        Raises:
            RuntimeError: When it ended in another way.
        """
        process.join()
        if process.exitcode != 0:
            tail = self.log.read_text()[-2_000:]
            raise RuntimeError(f"the command ended with {process.exitcode} instead of 0:\n{tail}")

    def begun(self) -> int:
        """Return when the folder was last made ready."""
        return changed(self.folder / RUN)

    def pace(self) -> float:
        """Return the seconds that a step has taken of late, its checkpoint included."""
        lines = read_metrics(self.folder / METRICS)[-2 * EVERY :]
        return (lines[-1]["seconds"] - lines[0]["seconds"]) / (len(lines) - 1) if len(lines) > 1 else 0.5

    def reached(self) -> int:
        """Return the step to go on from, after making sure that no checkpoint is damaged."""
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = self.checkpoints.latest()
        return 0 if found is None else step_of(found[2])

    def last(self) -> Path:
        return self.checkpoints.path(STEPS)


def command(arguments: Sequence[str], log: str, new_interpreter: bool) -> None:
    """Be ``interpolants``, in this process or in a new interpreter that takes its place."""
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    if new_interpreter:
        os.execv(sys.executable, [sys.executable, "-m", "interpolants", *arguments])
    sys.exit(interpolants(arguments))


def step_of(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def changed(path: Path) -> int:
    """Return when a file was last changed, in nanoseconds; 0 when there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def phase_of(folder: Path, process: int, start: int, metrics_before: int) -> tuple[str, int]:
    """Return what a process was doing when it was killed, by what it has left, and the last step made.

    Args:
        folder: The folder of the run.
        process: The id of the process.
        start: The step it went on from.
        metrics_before: When the metrics were changed before it was started.
    """
    step = step_made(folder, start, metrics_before)
    paths = Checkpoints(folder / CHECKPOINTS).paths()
    due = step % EVERY == 0 and step > start
    partial = f".*.{process}.partial"
    phases = {
        WRITING: any((folder / CHECKPOINTS).glob(partial)),
        TEXT: any(folder.glob(partial)),
        COLLECTING: due and step not in map(step_of, paths),
        REMOVING: due and len(paths) > KEEP,
        AFTER: step == STEPS,
        BEFORE: step == start,
        BETWEEN: True,
    }
    return next(phase for phase, holds in phases.items() if holds), step


def step_made(folder: Path, start: int, metrics_before: int) -> int:
    """Return the last step a process made; until it has taken the metrics over, they are others'."""
    taken_over = changed(folder / METRICS) != metrics_before
    lines = read_metrics(folder / METRICS) if taken_over else []
    return int(lines[-1]["step"]) if lines else start


def kill(run: Run, number: int, steps: int, seconds: float, generator: random.Random) -> Kill | None:
    """Start a process and kill it at a random moment; None when it finished before that.

    Args:
        run: The run.
        number: Which kill it is: it decides on the kind of process and whether to count from its very start.
        steps: The most steps it may make before.
        seconds: The most it may go on for after them.
        generator: Where the step and the moment are drawn from.
    """
    start, metrics, begun = run.reached(), changed(run.folder / METRICS), run.begun()
    new_interpreter, early = number % 8 == 7, number % 8 == 0
    last, pause = start + generator.randint(0, steps), generator.uniform(0, seconds)
    process = run.start(new_interpreter=new_interpreter)
    while not early and process.is_alive():
        if run.begun() != begun and step_made(run.folder, start, metrics) >= last:
            break
        time.sleep(0.01)
    process.join(pause)
    if process.exitcode is not None:
        run.finish(process)
        return None
    process.kill()
    process.join()
    assert process.pid is not None
    phase, step = phase_of(run.folder, process.pid, start, metrics)
    return Kill(phase, step, step - run.reached(), new_interpreter)


def survived(run: Run, wanted: int, generator: random.Random) -> list[Kill]:
    """Kill a run up to ``wanted`` times, then let it finish."""
    kills: list[Kill] = []
    while len(kills) < wanted:
        # So that on average every life makes an equal part of what is left.
        steps = 2 * (STEPS - run.reached()) // (wanted - len(kills) + 1)
        found = kill(run, len(kills), steps, 2 * run.pace(), generator)
        if found is None:
            return kills
        kills.append(found)
        show_progress(f"kill {len(kills)}: step {found.step}, {found.phase}")
    run.finish(run.start(new_interpreter=False))
    return kills


def differences(one: Path, other: Path) -> list[str]:
    """Return the names of what differs between two checkpoints, in a single bit or more."""
    (tensors, texts), (others, other_texts) = load_checkpoint(one), load_checkpoint(other)
    names = [name for name in tensors.keys() | others.keys() if bits(tensors, name) != bits(others, name)]
    return sorted(
        [*names, *(n for n in texts.keys() | other_texts.keys() if texts.get(n) != other_texts.get(n))]
    )


def summary(names: list[str]) -> str:
    """Return how many names there are, and one of them; nothing when there are none."""
    return f"{len(names)}, such as {names[0]}" if names else ""


def bits(tensors: dict[str, torch.Tensor], name: str) -> object:
    x = tensors.get(name)
    return None if x is None else (x.dtype, x.shape, x.numpy().tobytes())


def curve(run: Run) -> list[tuple[int, float, float]]:
    lines = read_metrics(run.folder / METRICS)
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in lines]


def kills_measured(folder: Path, wanted: int, seed: int) -> tuple[dict[str, Any], Run]:
    """Return the figures of all kills, and the last run that survived them."""
    generator, kills = random.Random(seed), list[Kill]()
    different, lines, leftovers, runs = list[str](), 0, 0, 0
    while True:
        whole, run = (Run(folder / f"{name}-{runs}", seed + runs) for name in ("whole", "killed"))
        show_progress(f"run {runs + 1}, left alone")
        whole.finish(whole.start(new_interpreter=True))
        kills += survived(run, min(KILLS_OF_A_RUN, wanted - len(kills)), generator)
        runs += 1
        different += differences(whole.last(), run.last())
        lines += curve(whole) != curve(run)
        leftovers += len(list(run.folder.rglob("*.partial")))
        if len(kills) >= wanted:
            break
    return {
        "command": f"interpolants train digits {' '.join(OPTIONS)}",
        "kills": len(kills),
        "of_new_interpreters": sum(k.new_interpreter for k in kills),
        "runs": runs,
        "checkpoint_bytes": run.last().stat().st_size,
        "phases": dict(Counter(k.phase for k in kills).most_common()),
        "steps": {phase: [k.step for k in kills if k.phase == phase] for phase in PHASES},
        "lost_steps": {"mean": mean(k.lost for k in kills), "most": max(k.lost for k in kills)},
        "tensors_compared": runs * len(load_checkpoint(run.last())[0]),
        "different": summary(different),
        "curves_different": lines,
        "files_left_over": leftovers,
    }, run


# --------------------------------------------------------------------------------------------------- memory


def trainer_of(steps: int, seed: int, *, workers: int = 0) -> Trainer:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    return Trainer(
        Transformer(
            1, Digits().shape[1:], patch=4, width=16, depth=1, heads=2, classes=10, generator=generator
        ),
        Regression(Linear()),
        ImageBatches(Digits(), 16, seed=seed, workers=workers),
        steps=steps,
        optimizer=partial(torch.optim.AdamW, lr=1e-3, fused=True),
        generator=generator,
        schedule=WarmUp(100),
        clip=1.0,
        averages=(0.99, 0.999),
    )


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def memory_measured(folder: Path, steps: int, seed: int) -> dict[str, Any]:
    """Return the resident memory at ten moments of a training."""
    trainer, checkpoints = trainer_of(steps, seed), Checkpoints(folder / "memory", keep=KEEP)
    found: dict[int, int] = {}
    started = time.perf_counter()
    for step in trainer:
        if step.index % 500 == 0:
            trainer.save(checkpoints)
        if step.index * MARKS % steps == 0:
            found[step.index] = resident()
            show_progress(f"step {step.index:,}: {found[step.index] / 2**20:.1f} MiB")
    return {
        "steps": steps,
        "resident_bytes": {str(index): size for index, size in found.items()},
        **growth(found),
        "bound_bytes": MOST_GROWTH,
        "seconds": time.perf_counter() - started,
    }


def growth(sizes: dict[int, int]) -> dict[str, float]:
    """Return by how much memory exceeds its first figure at most, and its slope by least squares."""
    steps, values = list(sizes), list(sizes.values())
    slope = linear_regression(steps, values).slope if len(sizes) > 1 else 0.0
    return {"growth_bytes": max(values) - values[0], "bytes_per_step": slope}


# ---------------------------------------------------------------------------------------------------- files


class Trap:
    """What makes a folder as soon as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def traps(marker: Path) -> dict[str, bytes]:
    """Return files that make a folder when they are opened as their kind is by default."""
    file = io.BytesIO()
    torch.save(Trap(marker), file)
    return {"pickle": pickle.dumps(Trap(marker)), "torch.save": file.getvalue()}


def passed_over(checkpoints: Checkpoints) -> bool:
    """Return whether the last of two checkpoints is passed over, with a warning that names both."""
    before, last = checkpoints.paths()
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        found = checkpoints.latest()
    said = [str(note.message) for note in noted]
    return (
        found is not None
        and found[2] == before
        and len(said) == 1
        and all(str(path) in said[0] for path in (before, last))
    )


def cuts_passed_over(checkpoints: Checkpoints, cuts: int = CUTS) -> int:
    """Return at how many of so many places the last of two checkpoints may be cut off and is passed over."""
    last = checkpoints.paths()[-1]
    content = last.read_bytes()
    count = 0
    for k in range(cuts):
        last.write_bytes(content[: len(content) * k // cuts])
        count += passed_over(checkpoints)
    last.write_bytes(content)
    return count


def traps_passed_over(checkpoints: Checkpoints, marker: Path) -> int:
    """Return how many of two pickles in the place of the last checkpoint are passed over unexecuted."""
    last = checkpoints.paths()[-1]
    content = last.read_bytes()
    count = 0
    for trap in traps(marker).values():
        last.write_bytes(trap)
        count += passed_over(checkpoints) and not marker.exists()
    last.write_bytes(content)
    return count


def files_measured(folder: Path, run: Run) -> dict[str, Any]:
    """Return what becomes of the damaged checkpoints of a finished run, whose own last one is made anew."""
    copied = shutil.copytree(run.checkpoints.folder, folder / "damaged")
    checkpoints = Checkpoints(copied, keep=KEEP)
    whole = shutil.copy(run.last(), folder / "whole.safetensors")
    os.truncate(run.last(), run.last().stat().st_size // 2)
    run.log.unlink()
    run.finish(run.start(new_interpreter=True))
    before, last = run.checkpoints.paths()
    said = run.log.read_text()
    return {
        "bytes": run.last().stat().st_size,
        "cuts": CUTS,
        "cuts_passed_over": cuts_passed_over(checkpoints),
        "pickles": len(traps(folder / "trap")),
        "pickles_passed_over": traps_passed_over(checkpoints, folder / "trap"),
        "command_named_both": str(before) in said and str(last) in said,
        "command_different": summary(differences(Path(whole), last)),
    }


# --------------------------------------------------------------------------------------------------- loader


@contextmanager
def no_hang(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError(f"nothing for {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def loader_measured(seed: int) -> dict[str, Any]:
    """Return how long after the death of a worker its training ends with an error."""
    rows: dict[str, Any] = {}
    for workers in (1, 2):
        show_progress(f"a loader of {workers}")
        trainer = trainer_of(10**6, seed, workers=workers)
        with no_hang(HANGS):
            others = set(multiprocessing.active_children())
            next(trainer)
            worker = (set(multiprocessing.active_children()) - others).pop()
            worker.kill()
            killed = time.perf_counter()
            try:
                for _ in trainer:
                    pass
            except RuntimeError as error:
                text = " ".join(str(error).split())
                named = str(worker.pid) in text
            seconds = time.perf_counter() - killed
        rows[f"one of {workers}"] = {"seconds": seconds, "named": named, "error": text}
    return {"bound_seconds": MOST_SECONDS, "rows": rows}


# --------------------------------------------------------------------------------------------------- tables


def failures(figures: dict[str, Any]) -> list[str]:
    """Return in words what did not hold; nothing when all did."""
    kills, memory, files, loader = (figures[name] for name in ("kills", "memory", "files", "loader"))
    dead = list(loader["rows"].values())
    claims = {
        "weights differ after kills": not kills["different"],
        "curves differ after kills": not kills["curves_different"],
        "killed processes left files": not kills["files_left_over"],
        "memory grows": memory["growth_bytes"] <= memory["bound_bytes"],
        "a cut file was taken": files["cuts_passed_over"] == files["cuts"],
        "a pickle was taken": files["pickles_passed_over"] == files["pickles"],
        "the command did not name both files": files["command_named_both"],
        "weights differ after a cut": not files["command_different"],
        "a dead worker is noticed late": max(row["seconds"] for row in dead) <= loader["bound_seconds"],
        "a dead worker is not named": all(row["named"] for row in dead),
    }
    return [text for text, holds in claims.items() if not holds]


def show_progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:60}\r", end="", file=sys.stderr, flush=True)


def show_kills(kills: dict[str, Any]) -> None:
    print(
        f"{kills['kills']} kills of {kills['runs']} runs, {kills['of_new_interpreters']} of new interpreters"
    )
    for phase, steps in kills["steps"].items():
        where = f"at steps {' '.join(map(str, sorted(steps)))}" if steps else ""
        print(f"  {phase:26}{len(steps):4}   {where}".rstrip())
    lost = kills["lost_steps"]
    print(f"  steps made again: {lost['mean']:.1f} on average, {lost['most']} at most")
    print(f"  tensors of the last checkpoints: {kills['tensors_compared']}")
    print(f"  different: {kills['different'] or 'none'}")


def show_files(files: dict[str, Any]) -> None:
    print(f"\ncheckpoints of {files['bytes']:,} bytes")
    print(f"  cut off and passed over: {files['cuts_passed_over']} of {files['cuts']}")
    print(f"  pickles passed over, unexecuted: {files['pickles_passed_over']} of {files['pickles']}")
    print(f"  the command goes on from the one before; different: {files['command_different'] or 'none'}")


def show_loader(loader: dict[str, Any]) -> None:
    print("\na process that loads minibatches is killed")
    for name, row in loader["rows"].items():
        print(f"  {name}: an error after {row['seconds']:.1f} s")


def show_memory(memory: dict[str, Any]) -> None:
    print(f"\nresident memory over {memory['steps']:,} steps")
    for step, size in memory["resident_bytes"].items():
        print(f"  step {int(step):>7,}{size / 2**20:10.2f} MiB")
    print(
        f"  growth {memory['growth_bytes'] / 2**20:.2f} MiB, {memory['bytes_per_step']:+.1f} bytes a step; "
        f"bound {memory['bound_bytes'] / 2**20:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--steps", type=int, default=20_000, help="of the long training; a multiple of 10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true", help="keep the figures in benchmarks/results")
    given = parser.parse_args()
    if given.kills < 1 or given.steps < MARKS or given.steps % MARKS:
        parser.error(f"--kills must be at least 1 and --steps a multiple of {MARKS}")
    torch.set_num_threads(1)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        figures: dict[str, Any] = {"seed": given.seed}
        figures["kills"], run = kills_measured(folder, given.kills, given.seed)
        show_kills(figures["kills"])
        figures["files"] = files_measured(folder, run)
        show_files(figures["files"])
        figures["loader"] = loader_measured(given.seed)
        show_loader(figures["loader"])
        figures["memory"] = memory_measured(folder, given.steps, given.seed)
        show_memory(figures["memory"])
    figures["seconds"] = time.perf_counter() - started
    print(f"{figures['seconds']:.0f} s")
    if given.save:
        print(save("survival", figures))
    if failed := failures(figures):
        sys.exit(f"did not hold: {'; '.join(failed)}")


if __name__ == "__main__":
    main()
