"""The command line: ``interpolants demo``, ``train``, ``sample``, ``evaluate`` and ``check``."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from interpolants.cli.usage import UsageError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 when it did what it was asked, 1 for a broken interpolant, 2 for bad input, 130 when interrupted.
    """
    try:
        import tyro
    except ImportError:
        print('interpolants: the command line needs tyro: pip install "interpolants[cli]"', file=sys.stderr)
        return 2
    from interpolants.cli.commands import Check, Demo, Sample, Train
    from interpolants.cli.images import Evaluate, TrainImages
    from interpolants.config import IMAGE_PRESETS, PRESETS

    given = list(sys.argv[1:] if arguments is None else arguments)
    # What a preset changes are the defaults of its command, so that its --help shows them.
    known = {*PRESETS, *IMAGE_PRESETS}
    preset = given[1] if given[:1] == ["train"] and given[1:2] and given[1] in known else "iadb-2d"
    train: Any
    if preset in IMAGE_PRESETS:
        of_images = TrainImages(**IMAGE_PRESETS[preset], out=Path("runs") / preset)
        train = Annotated[TrainImages, tyro.conf.subcommand("train", default=of_images)]
    else:
        defaults = Train(preset=preset, **PRESETS[preset])
        train = Annotated[Train, tyro.conf.subcommand("train", default=defaults)]
    # Of those for images some are on by themselves, and must have an opposite.
    single = () if preset in IMAGE_PRESETS else (tyro.conf.FlagCreatePairsOff,)
    commands: Any = (
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | train
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
        | Annotated[Check, tyro.conf.subcommand("check")]
    )
    command: Demo | Train | TrainImages | Sample | Evaluate | Check = tyro.cli(
        commands,
        prog="interpolants",
        description="Carry one density into another with stochastic interpolants.",
        args=given,
        config=(tyro.conf.OmitSubcommandPrefixes, *single),
    )
    try:
        if isinstance(command, Train) and command.preset in known and command.preset != preset:
            raise UsageError(f"write the preset first: interpolants train {command.preset} ...")
        if isinstance(command, TrainImages):
            return command.run(given)
        return command.run()
    except UsageError as error:
        process = os.environ.get("RANK", "0")
        where = "" if process == "0" else f"process {process}: "
        print(f"interpolants: {where}{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Files are written whole or not at all, so what is there can be used.
        print("interrupted; what was written before is whole", file=sys.stderr)
        return 130
