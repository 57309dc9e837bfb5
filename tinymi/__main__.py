"""`python -m tinymi` is the command `tinymi`."""

import sys

from tinymi.commands.main import main

sys.exit(main())
