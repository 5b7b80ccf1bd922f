"""The training loop and what it leaves behind."""

from interpolants.training.checkpoint import load_checkpoint, save_checkpoint
from interpolants.training.trainer import Step, Trainer

__all__ = ["Step", "Trainer", "load_checkpoint", "save_checkpoint"]
