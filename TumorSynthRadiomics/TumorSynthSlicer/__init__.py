"""The Slicer side of Tumor Synth Radiomics: nodes in, nodes out; the panel; the worker process.

The engine, `TumorSynthLib`, lies beside this package in an installed extension and one folder up in a source checkout.
"""

import os
import sys


def findEngine() -> None:
    """Make `import TumorSynthLib` work from a source checkout that was added as an additional module path.

    The module's constructor calls it; importing this package changes nothing.
    """
    module = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    checkout = os.path.dirname(module)
    there = [
        os.path.isfile(os.path.join(folder, "TumorSynthLib", "__init__.py")) for folder in (module, checkout)
    ]
    if there == [False, True] and checkout not in sys.path:
        sys.path.append(checkout)
