import sys

from dlnjax._cli import main

sys.exit(main())
