"""What opening the panel costs: `python Testing/benchmark_panel.py` prints seconds of processor time."""

from __future__ import annotations

import sys
import time


def main() -> None:
    import panel_case

    panel_case.start()
    import slicer_runtime

    slicer_runtime.loadModule()
    start = time.process_time()
    from TumorSynthSlicer.panel import Panel

    from TumorSynthRadiomics import TumorSynthRadiomicsWidget

    print(f"import            {time.process_time() - start:.3f} s")
    made, entered = [], []
    for _ in range(5):
        start = time.process_time()
        widget = TumorSynthRadiomicsWidget()
        made.append(time.process_time() - start)
        start = time.process_time()
        widget.enter()
        entered.append(time.process_time() - start)
        widget.cleanup()
    for name, seconds in (("make the widgets", made), ("enter", entered)):
        print(f"{name:17} {seconds[0]:.3f} s the first time, {min(seconds):.3f} s at best")
    print(f"torch imported    {'torch' in sys.modules}\npanel             {Panel.__module__}")


if __name__ == "__main__":
    main()
