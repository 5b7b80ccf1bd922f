"""The training loop, where it runs, and what it leaves behind."""

from interpolants.training.averages import Average
from interpolants.training.checkpoint import DamagedCheckpoint, load_checkpoint, save_checkpoint
from interpolants.training.checkpoints import Checkpoints
from interpolants.training.engine import Accelerated, Alone, Engine
from interpolants.training.finite import NonFiniteLoss
from interpolants.training.schedules import WarmUp
from interpolants.training.trainer import Step, Trainer

__all__ = [
    "Accelerated",
    "Alone",
    "Average",
    "Checkpoints",
    "DamagedCheckpoint",
    "Engine",
    "NonFiniteLoss",
    "Step",
    "Trainer",
    "WarmUp",
    "load_checkpoint",
    "save_checkpoint",
]
