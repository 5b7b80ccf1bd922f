"""What one of several processes runs; not a test. The first argument says what, the second where to."""

import itertools
import json
import os
import signal
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from torch import nn

from interpolants import MLP, Linear, OptimalTransport, Quadratic, Trainer
from interpolants.gammas import Brownian
from interpolants.losses import Stratified
from interpolants.training import Accelerated, Checkpoints, WarmUp


def seeded(seed):
    return torch.Generator().manual_seed(seed)


class Blocks(nn.Module):
    """A network with a list of blocks, which are what is shared out."""

    def __init__(self):
        super().__init__()
        self.first = MLP(2, width=16, depth=1, generator=seeded(1))
        self.blocks = nn.ModuleList(MLP(2, width=16, depth=1, generator=seeded(k)) for k in (2, 3))

    def forward(self, t, x):
        x = self.first(t, x)
        for block in self.blocks:
            x = x + block(t, x)
        return x


class Batches:
    """The rows of one process of minibatches that depend on the step alone."""

    def __init__(self, engine, size=32):
        self.engine, self.size, self.step = engine, size, 0

    def __iter__(self):
        while True:
            draws = torch.randn(2, self.size, 2, generator=seeded(1000 + self.step))
            own = self.size // self.engine.count
            rows = slice(self.engine.index * own, (self.engine.index + 1) * own)
            self.step += 1
            yield draws[0, rows], 2 + 0.5 * draws[1, rows]

    def state_dict(self):
        return {"step": self.step}

    def load_state_dict(self, state):
        self.step = state["step"]


def make(engine, steps=20, network=None, **options):
    return Trainer(
        network or Blocks(),
        Quadratic(Linear(Brownian()), coupling=OptimalTransport(), times=Stratified()),
        Batches(engine),
        steps=steps,
        optimizer=partial(torch.optim.AdamW, lr=1e-2),
        generator=seeded(7),
        engine=engine,
        **options,
    )


OPTIONS = {
    "plain": {},
    "all": {"accumulate": 2, "clip": 1.0, "averages": (0.9,), "schedule": WarmUp(3, steps=20)},
}


def losses(kind, folder, engine, name):
    trainer = make(engine, **OPTIONS[kind])
    seen = [float(step.loss) for step in trainer]
    trainer.save(Checkpoints(folder / name))
    if engine.index == 0:
        (folder / f"{name}.json").write_text(json.dumps(seen))


def apart(folder):
    """What comes of processes that differ where they should not."""
    found = {}
    for sharded in (False, True):
        engine = Accelerated(cpu=True, sharded=sharded)
        torch.manual_seed(engine.index)
        network = Blocks()
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        trainer = make(engine, network=network, averages=(0.9,))
        tensors, _ = trainer.state()
        weight = "first.layers.0.weight"
        found[f"weights-{sharded}"] = tensors[f"objective/network.{weight}"].tolist()
        found[f"average-{sharded}"] = tensors[f"average/0.9/{weight}"].tolist()
        next(trainer)
        trainer.save(Checkpoints(folder / f"kept-{sharded}"))
        # Process 0 fails for a reason that is not the disk's.
        metadata = {"format": ""} if engine.index == 0 else {}
        nowhere = Checkpoints(folder / "none")
        found[f"failed-{sharded}"] = refused(trainer.save, nowhere, metadata=metadata)
        own = Checkpoints(folder / (f"kept-{sharded}" if engine.index == 0 else "empty"))
        found[f"different-{sharded}"] = refused(make(engine).resume, own)
        with torch.no_grad():
            trainer.network.blocks[0].layers[0].bias.mul_(torch.inf)
        found[f"infinite-{sharded}"] = refused(next, trainer)
    return found


def refused(action, *arguments, **options):
    try:
        action(*arguments, **options)
    except (ArithmeticError, OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main():
    torch.set_num_threads(1)
    what, folder = sys.argv[1], Path(sys.argv[2])
    if what == "equal":
        for sharded in (False, True):
            engine = Accelerated(cpu=True, sharded=sharded)
            for kind in OPTIONS:
                losses(kind, folder, engine, f"{kind}-{'sharded' if sharded else 'whole'}-{engine.count}")
            # Stopped in the middle and continued, on the same number of processes and from the other way.
            first = make(engine, **OPTIONS["all"])
            for _ in itertools.islice(first, 9):
                pass
            kept = Checkpoints(folder / f"stopped-{sharded}-{engine.count}")
            first.save(kept)
            second = make(engine, **OPTIONS["all"])
            second.resume(kept)
            seen = [float(step.loss) for step in second]
            if engine.index == 0:
                (folder / f"continued-{sharded}-{engine.count}.json").write_text(json.dumps(seen))
    if what == "killed":
        engine = Accelerated(cpu=True)
        kept = Checkpoints(folder / "checkpoints")
        trainer = make(engine, steps=12)
        trainer.resume(kept)
        restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
        for step in trainer:
            trainer.save(kept)
            if step.index == 3 + 4 * restarts and restarts < 2 and engine.index == restarts:
                os.kill(os.getpid(), signal.SIGKILL)
        trainer.save(kept)
    if what == "bad-loss":
        engine = Accelerated(cpu=True)
        trainer = make(engine, steps=4, skip_non_finite=1)
        original, counted = trainer.loss.draw, itertools.count(1)

        def draw(*arguments, **options):
            found = original(*arguments, **options)
            if next(counted) == 2 and engine.index == 1:  # One process alone sees it.
                found.x1[0] = torch.nan
            return found

        object.__setattr__(trainer.loss, "draw", draw)
        skipped = [step.skipped for step in trainer]
        (folder / f"skipped-{engine.index}.json").write_text(json.dumps(skipped))
    if what == "bf16":
        for sharded in (False, True):
            engine = Accelerated(cpu=True, sharded=sharded, precision="bf16")
            trainer = make(engine, averages=(0.9,))
            types = set()
            trainer.network.first.register_forward_pre_hook(
                lambda part, given, types=types: types.update((part.layers[0].weight.dtype, given[0].dtype))
            )
            seen = [float(step.loss) for step in trainer]
            t, x = torch.rand(4, generator=seeded(3)), torch.randn(4, 2, generator=seeded(4))
            answer = trainer.averages[0.9](t, x)
            found = {"losses": seen, "types": sorted(map(str, types)), "answer": answer.tolist()}
            if engine.index == 0:
                (folder / f"{sharded}.json").write_text(json.dumps(found))
    if what == "apart":
        (folder / f"apart-{os.environ['RANK']}.json").write_text(json.dumps(apart(folder)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    warnings.simplefilter("error", UserWarning)
    main()
