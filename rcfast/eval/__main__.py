"""`python -m rcfast.eval`."""

import sys

from rcfast.eval.cli import main

if __name__ == "__main__":
    sys.exit(main(shared=True))
