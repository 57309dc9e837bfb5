"""`python -m tests.fuzz` runs the fuzzer."""

import sys

from tests.fuzz.fuzz import main

main(sys.argv[1:])
