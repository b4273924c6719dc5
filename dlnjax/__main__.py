"""`python -m dlnjax` is the command line."""

import sys

from dlnjax._cli import main

sys.exit(main())
