r"""
Training on several processes
=============================

One training can be shared by several processes, on one machine or many. Here two share one on this
machine's processor, and their losses are held against those of a single process.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

from interpolants.training import Alone

# %%
# Every process runs this program. :class:`~interpolants.Accelerated` tells each which one it is, it
# loads its own rows of every minibatch, and gradients are averaged. With ``sharded=True`` weights and Adam's
# state are shared out as well, for networks that outgrow a device. ``precision="bf16"`` is for GPUs.

PROGRAM = """
import json, sys, torch
from interpolants import Linear, OptimalTransport, Regression, Trainer, UNet
from interpolants.data import Digits, ImageBatches
from interpolants.training import Accelerated, Checkpoints
def made(engine):
    weights, draws = (torch.Generator().manual_seed(k) for k in (0, 1))  # alike on all processes
    network = UNet(1, width=8, multipliers=(1,), blocks=1, attention=(), generator=weights)
    batches = ImageBatches(Digits(), 32, process=engine.index, processes=engine.count, labels=False)
    loss = Regression(Linear(), coupling=OptimalTransport())
    return Trainer(network, loss, batches, steps=20, generator=draws, engine=engine)
if __name__ == "__main__":
    losses, checkpoints = {}, Checkpoints(sys.argv[1])
    for name in ("whole", "sharded", "sharded, resumed"):
        engine = Accelerated(cpu=True, sharded=name != "whole")  # on GPUs without cpu=True
        trainer, losses[name] = made(engine), []
        if name == "sharded, resumed":
            trainer.resume(checkpoints)
        for step in trainer:
            losses[name].append((step.index, float(step.loss)))
            if name == "sharded" and step.index == 10:
                trainer.save(checkpoints)  # all processes ask, the first one writes
    if engine.index == 0:
        print(json.dumps(losses))
    torch.distributed.destroy_process_group()
"""

# %%
# ``torchrun`` is short for ``python -m torch.distributed.run``; ``accelerate launch`` would do as well. The
# variable is for groups that ``--max-restarts`` starts again after a process was killed: without it they may
# wait for ever, a fault of torch. The training of one process needs no launcher.

command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
env = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
with tempfile.TemporaryDirectory() as folder:
    program = Path(folder, "train.py")
    program.write_text(PROGRAM)
    one = torch.stack([step.loss for step in runpy.run_path(str(program))["made"](Alone())])
    done = subprocess.run([*command, program, folder], env=env, check=True, capture_output=True, timeout=300)

# %%
# The losses are the same but for the order of sums in single precision, although the coupling looks at the
# whole minibatch, and also when a training goes on from a checkpoint in the middle.

plt.plot(range(1, 21), one, color="0.6", linewidth=6, label="one process")
for (name, pairs), mark in zip(json.loads(done.stdout).items(), ("o", "x", "+"), strict=True):
    steps, values = (torch.tensor(column) for column in zip(*pairs, strict=True))
    furthest = (values / one[steps - 1] - 1).abs().max()
    print(f"{name:16}: {len(steps)} steps, at most {furthest:.1e} from those of one process, relatively")
    plt.plot(steps, values, mark, markersize=11, fillstyle="none", label=f"two, {name}")
plt.gca().set(xlabel="step", ylabel="loss", xticks=range(0, 21, 5))
plt.legend(fontsize=11, frameon=False)
plt.show()
