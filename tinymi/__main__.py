"""`python -m tinymi` is the command `tinymi`."""

import sys

from tinymi.command import main

sys.exit(main())
