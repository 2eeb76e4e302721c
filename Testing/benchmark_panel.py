"""What the panel costs the application: opening it, a check in a large volume, an edit by clicks, a shape that follows a slider.

    python Testing/benchmark_panel.py [DATA]

DATA is the folder with the test data (default ../shared/data); without it only the opening and the checks are measured. The
longest block is that of one turn of the event loop, or of one click; "busy" is the processor time of the main thread in it,
which other programs don't lengthen. Python's bytecode is kept as that of an installed module is. Takes half a minute on two idle
cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def main() -> None:
    import panel_case

    panel_case.start()
    import slicer_runtime

    slicer_runtime.loadModule()
    kept = opening()
    checks()
    data = Path(sys.argv[1]) if len(sys.argv) > 1 else DATA
    if (data / "sts").is_dir():
        Walk(data).run()
    del kept


def opening() -> list:
    """Prints what opening costs; returns the widgets, which must live as long as the scene."""
    start = time.process_time()
    from TumorSynthSlicer.panel import Panel

    from TumorSynthRadiomics import TumorSynthRadiomicsWidget

    print(f"import            {time.process_time() - start:.3f} s")
    made, entered, kept = [], [], []
    for _ in range(5):
        start = time.process_time()
        widget = TumorSynthRadiomicsWidget()
        kept.append(widget)  # its selectors go on hearing of the scene
        made.append(time.process_time() - start)
        start = time.process_time()
        widget.enter()
        entered.append(time.process_time() - start)
        widget.cleanup()
    for name, seconds in (("make the widgets", made), ("enter", entered)):
        print(f"{name:17} {seconds[0]:.3f} s the first time, {min(seconds):.3f} s at best")
    print(f"torch imported    {'torch' in sys.modules}\npanel             {Panel.__module__}")
    return kept


def checks() -> None:
    """Prints what a check costs in 512 x 512 x 500 voxels: with the first look at the image, and while a slider moves."""
    import numpy as np
    import slicer
    import slicer_case
    import slicer_runtime

    array = np.full((500, 512, 512), -850, np.int16)
    array[:, :40] = -1000
    array[::7, 100::5, ::3] = 60
    array[240:260, 240:270, 240:270] = 40
    with slicer_runtime.freshScene():
        logic = slicer_runtime.moduleLogic()
        volume = slicer.util.addVolumeFromArray(array, name="large")
        given = (
            "retexture",
            volume,
            slicer_case.segmentation(volume, array == 40),
            "tumour",
            "lung-nodule-ct",
        )
        seconds = []
        for contrast in (9.0, 10.0, 11.0, 12.0, 13.0, 14.0):
            start = time.process_time()
            assert logic.check(*given, features={"contrast": contrast}, strength=1.0).ok
            seconds.append(time.process_time() - start)
        logic.close()
    print(f"check, large      {seconds[0]:.3f} s the first time, {min(seconds[1:]):.3f} s at best after it")


class Walk:
    """A user's way through the panel, on the real logic, with a sarcoma of 110,000 voxels."""

    def __init__(self, data: Path):
        import panel_case
        import slicer_case

        from TumorSynthRadiomics import TumorSynthRadiomicsLogic

        self.case = panel_case.Case(TumorSynthRadiomicsLogic())
        self.ui, self.blocks = self.case.ui, []
        self.volume, self.segmentation, _mask = slicer_case.largeSarcoma(data)
        self.case.root.setFixedWidth(350)
        self.case.root.show()

    def run(self) -> None:
        try:
            self.stage(
                "choose and measure", self.case.panel.enter, lambda: self.case.panel.tumour.measurement
            )
            for number in ("first", "second"):
                self.ui.removeButton.click()
                self.until(lambda: self.ui.generateButton.enabled)
                self.stage(
                    f"{number} removal", self.ui.generateButton.click, lambda: self.case.panel.job is None
                )
                self.stage("undo", self.ui.undoButton.click, lambda: self.case.panel.tumour.measurement)
            self.ui.shapeButton.click()
            self.until(lambda: self.case.panel.job is None)
            slider = self.case.widget("sphericity_slider")
            for number, value in enumerate((300, 400, 500, 600, 700)):
                self.moved = False
                self.stage(
                    f"slider, move {number + 1}", lambda value=value: self.move(slider, value), self.followed
                )
        finally:
            self.case.panel.cleanup()
            self.case.logic.close()
        print(f"torch imported    {'torch' in sys.modules}")

    def move(self, slider, value: int) -> None:
        node = self.case.panel.preview._node
        self.before = node.GetPolyData().GetMTime() if node is not None else 0
        slider.value = value

    def followed(self) -> bool:
        node = self.case.panel.preview._node
        return node is not None and node.GetPolyData().GetMTime() > self.before

    def stage(self, name: str, begin, done) -> None:
        """Time from a click until its effect is there, and the longest block of the main thread in it."""
        self.blocks, start = [], time.perf_counter()
        self.turn(begin)
        self.until(done)
        whole = time.perf_counter() - start
        longest, busy = max(self.blocks), max(b for _wall, b in self.blocks)
        print(f"{name:20} {whole:.3f} s, longest block {longest[0]:.3f} s, busy {busy:.3f} s", flush=True)

    def until(self, done, seconds: float = 120.0) -> None:
        import qt

        limit = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < limit, "it took too long"
            self.turn(qt.QApplication.processEvents)
            time.sleep(0.002)

    def turn(self, action) -> None:
        start, busy = time.perf_counter(), time.thread_time()
        action()
        self.blocks.append((time.perf_counter() - start, time.thread_time() - busy))


def with_bytecode() -> int:
    """Runs this file again with bytecode that was compiled before; returns its exit code."""
    root = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"PYTHONPYCACHEPREFIX": cache}
        folders = [str(root / name) for name in ("TumorSynthLib", "TumorSynthRadiomics", "Testing")]
        subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], env=environment, check=True)
        return subprocess.call([sys.executable, *sys.argv], env=environment)


if __name__ == "__main__":
    if sys.pycache_prefix is None:
        sys.exit(with_bytecode())
    main()
