"""Make the pictures of the documentation: the panel, section by section, and a tumour before and after.

    python Testing/screenshots.py                       into Resources/Screenshots, at a screen scaling of 150 %
    python Testing/screenshots.py --scale 1 --out DIR   elsewhere, at another scaling
    python Testing/screenshots.py --width 600 --out DIR with a wider panel

The panel is the module's own, on real nodes and on the real logic; only Slicer's application around it is missing (see
qt_runtime.py). The case is the CT of STS_041 of the soft-tissue sarcoma data (CC BY 3.0), which no bundled model was trained
on; it is looked for as in the tests (TUMORSYNTH_TEST_DATA). Takes a few minutes, most of them for three edits.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WIDTH = 350  # logical pixels of the panel, the narrowest that it must be good at
SEED = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "Resources" / "Screenshots")
    parser.add_argument("--scale", type=float, default=1.5, help="scaling of the screen")
    parser.add_argument("--width", type=int, default=WIDTH, help="of the panel, logical pixels")
    parser.add_argument("--case", default="STS_041_CT")
    parser.add_argument("--panel-only", action="store_true", help="only what needs no edit")
    parser.add_argument("--data", type=Path, default=default_data())
    given = parser.parse_args()
    os.environ["QT_SCALE_FACTOR"] = str(given.scale)  # read when Qt starts
    given.out.mkdir(parents=True, exist_ok=True)
    Session(given.data, given.out, given.case, given.width).run(given.panel_only)


def default_data() -> Path:
    return Path(os.environ.get("TUMORSYNTH_TEST_DATA", ROOT.parent / "shared" / "data"))


class Session:
    """One walk through the panel, with a picture of each stage."""

    def __init__(self, data: Path, out: Path, case: str, width: int):
        import panel_case

        panel_case.start()
        import slicer_case
        import slicer_runtime

        slicer_runtime.loadModule()
        from TumorSynthRadiomics import TumorSynthRadiomicsLogic

        self.out, self.states, self.box = out, {}, None
        self.case = panel_case.Case(TumorSynthRadiomicsLogic())
        self.ui = self.case.ui
        stem = data / "sts" / "val" / case
        files = [stem.with_name(f"{case}_{part}.nii.gz") for part in ("image", "mask")]
        self.volume, self.segmentation, _ = slicer_case.load(*files, "sarcoma")
        self.segmentation.SetName("sarcoma segmentation")
        self.case.root.setFixedWidth(width)
        self.case.root.resize(width, 3200)
        self.case.panel.enter()
        self.case.root.show()

    def run(self, panel_only: bool) -> None:
        try:
            self.pictures(panel_only)
        finally:
            self.case.panel.cleanup()
            self.case.logic.shutdown()

    def pictures(self, panel_only: bool) -> None:
        self.wait(lambda: self.case.panel.tumour.measurement is not None)
        self.keep("Before")
        tumour = self.grab("tumourSection")
        self.save(tumour, "tumour.png")
        edits = self.edits()
        for name, picture in edits.items():
            self.save(picture, f"edit-{name}.png")
        self.models()
        if panel_only:
            return
        result = self.texture()
        self.save(side_by_side([tumour, edits["texture"], result]), "panel.png")
        self.shape()
        self.removal()
        views(self.states, self.out / "before-after.png")

    # The stages

    def edits(self) -> dict:
        """Section 2 for each edit."""
        found = {}
        self.task("removeButton")
        found["remove"] = self.grab("editSection")
        self.task("shapeButton")
        self.preset("shape/half")
        found["shape"] = self.grab("editSection")
        self.point()
        for name in ("move", "insert"):
            self.task(name + "Button")
            found[name] = self.grab("editSection")
        self.task("seriesButton")
        selector = self.ui.seriesFeatureSelector
        selector.activated.emit(selector.findData("volume_ml"))
        found["series"] = self.grab("editSection")
        self.task("textureButton")
        self.preset("texture/rough")
        reach = self.case.panel.editSection.features.reach
        self.wait(
            lambda: all(reach.range(row.key) for row in self.case.panel.rows() if drives_texture(row)), 300
        )
        found["texture"] = self.grab("editSection")
        return found

    def texture(self):
        """Section 3 after an edit of the texture."""
        self.ui.seedSpinBox.value = SEED
        self.generate("Rougher texture")
        picture = self.grab("resultSection")
        self.save(picture, "result.png")
        self.undo()
        return picture

    def shape(self) -> None:
        self.choose_original()
        self.task("shapeButton")
        self.preset("shape/half")
        self.generate("Half the volume")
        self.undo()

    def removal(self) -> None:
        self.choose_original()
        self.task("removeButton")
        self.generate("Removed")
        self.save(self.grab("tumourSection"), "tumour-removed.png")
        self.save(self.grab("resultSection"), "result-removed.png")
        self.undo()

    def choose_original(self) -> None:
        """The edits of one picture all begin with the original."""
        self.ui.inputVolumeSelector.setCurrentNode(self.volume)
        self.ui.segmentSelector.setCurrentSegmentID("tumour")
        self.settle()
        self.wait(lambda: self.case.panel.job is None)

    def models(self) -> None:
        self.ui.modelsSection.collapsed = self.ui.helpSection.collapsed = False
        self.ui.modelTree.topLevelItem(1).setSelected(True)
        self.settle()
        self.save(side_by_side([self.grab("modelsSection"), self.grab("helpSection")]), "models-help.png")
        self.ui.modelsSection.collapsed = self.ui.helpSection.collapsed = True
        self.settle()

    # A user's hands

    def task(self, button: str) -> None:
        getattr(self.ui, button).click()
        self.settle()

    def preset(self, name: str) -> None:
        self.ui.presetSelector.activated.emit(self.ui.presetSelector.findData(name))
        self.settle()

    def point(self) -> None:
        """A new centre, 15 mm to the left of the tumour's."""
        import slicer

        centre = self.segmentation.GetSegmentCenterRAS("tumour")
        point = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "New centre")
        point.AddControlPoint(centre[0] - 15.0, centre[1], centre[2])
        self.ui.pointSelector.setCurrentNode(point)

    def generate(self, name: str) -> None:
        self.settle()
        assert self.ui.generateButton.enabled, self.ui.generateButton.toolTip
        self.ui.generateButton.click()
        self.wait(lambda: self.case.panel.job is None, 600)
        self.settle()
        self.wait(lambda: self.case.panel.job is None, 600)
        print(name + ":", self.ui.outcomeLabel.text)
        self.keep(name)

    def undo(self) -> None:
        self.ui.undoButton.click()
        self.settle()
        self.wait(lambda: self.case.panel.job is None, 60)

    def settle(self) -> None:
        self.case.settle()
        self.wait(lambda: False, 0.2, strict=False)

    def wait(self, until, seconds: float = 120.0, strict: bool = True) -> None:
        import qt

        end = time.monotonic() + seconds
        while time.monotonic() < end and not until():
            qt.QApplication.processEvents()
            time.sleep(0.005)
        assert not strict or until(), "it took too long"

    # Pictures

    def keep(self, name: str) -> None:
        """Remember the voxels and the segment around the first tumour as they are now."""
        import slicer

        parameters = self.case.panel.parameters
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(
            parameters.segmentation, parameters.segmentID, parameters.inputVolume
        )
        spacing = self.volume.GetSpacing()
        self.box = self.box or around(mask > 0, spacing)
        voxels = slicer.util.arrayFromVolume(parameters.inputVolume)[self.box].copy()
        self.states[name] = (voxels, mask[self.box] > 0, spacing)

    def grab(self, section: str):
        self.wait(lambda: False, 0.2, strict=False)
        return getattr(self.ui, section).grab()

    def save(self, picture, name: str) -> None:
        write(picture, self.out / name)


def drives_texture(row) -> bool:
    return row.kind == "texture" and row.role == "driver"


def write(picture, path: Path, colours: int = 64) -> None:
    """Write a pixmap as PNG with a palette, which makes it a third as large."""
    from PIL import Image

    assert picture.save(str(path))
    image = Image.open(path).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    image.save(path, optimize=True)


def side_by_side(pictures, gap: int = 24):
    """One picture of several on the panel's background, their tops in line."""
    import qt

    ratio = pictures[0].devicePixelRatio()
    width = sum(p.width() for p in pictures) + gap * (len(pictures) + 1)
    height = max(p.height() for p in pictures) + 2 * gap
    whole = qt.QPixmap(width, height)
    whole.fill(qt.QApplication.palette().color(qt.QPalette.Window))
    painter, x = qt.QPainter(whole), gap
    for picture in pictures:
        plain = qt.QPixmap(picture)
        plain.setDevicePixelRatio(1.0)
        painter.drawPixmap(x, gap, plain)
        x += picture.width() + gap
    painter.end()
    assert ratio > 0
    return whole


# The tumour before and after


def around(mask, spacing, margin: float = 25.0):
    """The box of a (K, J, I) mask and mm around it."""
    import numpy as np

    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    room = [round(margin / d) for d in spacing[::-1]]
    return tuple(slice(max(0, f[0] - r), f[-1] + r + 1) for f, r in zip(found, room))


def views(states: dict, path: Path, height: int = 300) -> None:
    """A row of axial slices through the tumour's middle, and below it the tumour's surface, for each state."""
    import numpy as np

    before, mask, _ = next(iter(states.values()))
    k = int(round(float(np.argwhere(mask)[:, 0].mean())))
    low, high = np.percentile(before[mask], (1, 99))
    window = (low - 0.6 * (high - low), high + 0.8 * (high - low))
    tiles = [column(name, state, k, window, height) for name, state in states.items()]
    whole = side_by_side(tiles, gap=12)
    write(whole, path, 256)


def column(name: str, state, k: int, window, height: int):
    """Name, slice and surface of one state, one above the other."""
    import qt

    voxels, mask, spacing = state
    slice_ = slice_picture(voxels[k], mask[k] if name != "Removed" else None, spacing, window, height)
    surface = surface_picture(mask if name != "Removed" else mask & False, spacing, slice_.width(), height)
    whole = qt.QPixmap(slice_.width(), 2 * height + 40)
    whole.fill(qt.QColor(0, 0, 0))
    painter = qt.QPainter(whole)
    painter.setPen(qt.QColor(230, 230, 230))
    font = painter.font()
    font.setPixelSize(16)
    painter.setFont(font)
    painter.drawText(qt.QRect(0, 0, whole.width(), 32), qt.Qt.AlignCenter, name)
    painter.drawPixmap(0, 32, slice_)
    painter.drawPixmap(0, 40 + height, surface)
    painter.end()
    return whole


def slice_picture(plane, mask, spacing, window, height: int):
    """An axial slice in radiological orientation with the tumour's outline."""
    import numpy as np
    import qt
    from scipy import ndimage

    grey = np.clip((plane - window[0]) / (window[1] - window[0]), 0, 1) * 255
    zoom = height / (plane.shape[0] * spacing[1])
    scale = (zoom * spacing[1], zoom * spacing[0])
    grey = np.clip(ndimage.zoom(grey, scale, order=1), 0, 255).astype(np.uint8)
    colour = np.stack([grey] * 3, -1)
    if mask is not None:
        large = ndimage.zoom(mask.astype(float), scale, order=1) > 0.5
        colour[large & ~ndimage.binary_erosion(large, iterations=1)] = (255, 200, 60)
    colour = np.ascontiguousarray(colour[:height])
    image = qt.QImage(
        colour.tobytes(), colour.shape[1], colour.shape[0], 3 * colour.shape[1], qt.QImage.Format_RGB888
    )
    return qt.QPixmap.fromImage(image.copy())


def surface_picture(mask, spacing, width: int, height: int):
    """The surface of a (K, J, I) mask, rendered by VTK, the same view for every state."""
    import qt
    import vtk

    window = vtk.vtkRenderWindow()
    window.SetOffScreenRendering(1)
    window.SetMultiSamples(4)
    window.SetSize(width, height)
    renderer = vtk.vtkRenderer()
    window.AddRenderer(renderer)
    if mask.any():
        renderer.AddActor(surface_actor(mask, spacing))
    look(renderer, mask.shape, spacing)
    window.Render()
    grabbed = vtk.vtkWindowToImageFilter()
    grabbed.SetInput(window)
    grabbed.Update()
    return to_pixmap(grabbed.GetOutput(), qt)


def surface_actor(mask, spacing, step: float = 1.0):
    """Smooth surface of a mask in mm, from a grid with voxels of that many mm."""
    import numpy as np
    import vtk
    from scipy import ndimage
    from vtk.util.numpy_support import numpy_to_vtk

    fine = ndimage.zoom(mask.astype(np.float32), [d / step for d in spacing[::-1]], order=1)
    fine = np.ascontiguousarray(ndimage.gaussian_filter(fine, 1.5 / step))
    image = vtk.vtkImageData()
    image.SetDimensions(*fine.shape[::-1])
    image.SetSpacing(step, step, step)
    image.GetPointData().SetScalars(numpy_to_vtk(fine.ravel(), deep=True))
    contour = vtk.vtkFlyingEdges3D()
    contour.SetInputData(image)
    contour.SetValue(0, 0.5)
    mapper = vtk.vtkPolyDataMapper()
    mapper.SetInputConnection(contour.GetOutputPort())
    mapper.ScalarVisibilityOff()
    actor = vtk.vtkActor()
    actor.SetMapper(mapper)
    actor.GetProperty().SetColor(0.95, 0.75, 0.3)
    actor.GetProperty().SetSpecular(0.2)
    return actor


def look(renderer, shape, spacing) -> None:
    """From the front and a little above, at the middle of what is shown."""
    extent = [n * d for n, d in zip(shape[::-1], spacing)]
    middle = [e / 2 for e in extent]
    camera = renderer.GetActiveCamera()
    camera.SetFocalPoint(*middle)
    camera.SetPosition(
        middle[0] + 0.5 * extent[0], middle[1] - 2.0 * max(extent), middle[2] + 0.6 * extent[2]
    )
    camera.SetViewUp(0, 0, 1)
    camera.ParallelProjectionOn()
    camera.SetParallelScale(0.5 * max(extent[0], extent[2]))
    renderer.ResetCameraClippingRange((0, extent[0], 0, extent[1], 0, extent[2]))


def to_pixmap(image, qt):
    """VTK's RGB picture, whose first row is the lowest, as a pixmap."""
    import numpy as np
    from vtk.util.numpy_support import vtk_to_numpy

    width, height, _ = image.GetDimensions()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]
    pixels = np.ascontiguousarray(pixels)
    picture = qt.QImage(pixels.tobytes(), width, height, 3 * width, qt.QImage.Format_RGB888)
    return qt.QPixmap.fromImage(picture.copy())


if __name__ == "__main__":
    main()
