"""Lets ``python -m interpolants`` stand for the command ``interpolants``."""

import sys

from interpolants.cli import main

sys.exit(main())
