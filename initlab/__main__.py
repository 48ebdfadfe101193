"""`python -m initlab` is the `initlab` command."""

import os
import sys

# `-m` puts the working folder first: a random.py there must not pass for the standard library's.
if sys.path and sys.path[0] == os.getcwd():
    sys.path.append(sys.path.pop(0))

from initlab.cli import main

if __name__ == "__main__":
    main()
