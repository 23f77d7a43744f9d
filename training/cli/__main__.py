"""`python -m umt_training.cli`: the command `umt` for environments without the entry point."""

import sys

from . import main

sys.exit(main())
