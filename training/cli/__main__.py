"""`python -m umt_training.cli`, the command `umt` where it is not installed."""

import sys

from . import main

sys.exit(main())
