"""The command line: ``interpolants demo``, ``train``, ``sample`` and ``check``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

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
    from interpolants.config import PRESETS

    given = list(sys.argv[1:] if arguments is None else arguments)
    # What a preset changes are the defaults of its command, so that its --help shows them.
    preset = given[1] if given[:1] == ["train"] and given[1:2] and given[1] in PRESETS else "iadb-2d"
    defaults = Train(preset=preset, **PRESETS[preset])
    command: Demo | Train | Sample | Check = tyro.cli(
        Annotated[Demo, tyro.conf.subcommand("demo")]
        | Annotated[Train, tyro.conf.subcommand("train", default=defaults)]
        | Annotated[Sample, tyro.conf.subcommand("sample")]
        | Annotated[Check, tyro.conf.subcommand("check")],
        prog="interpolants",
        description="Carry one density into another with stochastic interpolants.",
        args=given,
        config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
    )
    try:
        if isinstance(command, Train) and command.preset in PRESETS and command.preset != preset:
            raise UsageError(f"write the preset first: interpolants train {command.preset} ...")
        return command.run()
    except UsageError as error:
        print(f"interpolants: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        # Files are written whole or not at all, so what is there can be used.
        print("interrupted; what was written before is whole", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
