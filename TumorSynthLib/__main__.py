"""`python -m TumorSynthLib` is `tumorsynth`."""

import sys

from TumorSynthLib.cli import main

sys.exit(main())
