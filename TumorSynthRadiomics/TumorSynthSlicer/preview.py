"""The surface of a shape that has asked features, as a model node; the worker computes it, so that nothing waits for it here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

from TumorSynthLib import wire
from TumorSynthLib.errors import TumorSynthError

from .geometry import transformPolyDataToRAS
from .job import errorOf

COLOUR, OPACITY = (0.95, 0.75, 0.2), 0.5


@dataclass
class Wish:
    """A preview that was asked for; see `api.Logic.previewShape`."""

    modelID: str
    features: Mapping[str, float]
    seed: int
    to: Any
    modelNode: Any
    onDone: Callable[[Any], None]
    onError: Callable[[TumorSynthError], None]


class Previews:
    """Has the worker draw one preview at a time; of those that are asked for meanwhile only the last is drawn."""

    def __init__(self, client):
        self._client = client
        self._drawn: Wish | None = None
        self._next: Wish | None = None

    def isRunning(self) -> bool:
        return self._drawn is not None

    def ask(self, wish: Wish) -> None:
        """:raises TumorSynthError: the worker can't be started."""
        if self._drawn is not None:
            self._next = wish
            return
        features = {key: float(value) for key, value in wish.features.items()}
        message = wire.Preview(wish.modelID, features, int(wish.seed))
        self._client.request(message, lambda event: self._onEvent(wish, event))
        self._drawn = wish

    def forget(self) -> None:
        """Drop what was asked for; what the worker draws at present isn't shown."""
        self._drawn = self._next = None

    def _onEvent(self, wish: Wish, event: wire.Event) -> None:
        if wish is not self._drawn:
            return
        waiting, self._drawn, self._next = self._next, None, None
        if isinstance(event, wire.Failed):
            wish.onError(errorOf(event))
        else:
            wish.onDone(self._shown(wish, event))
        if waiting is not None and self._drawn is None:
            self.ask(waiting)

    def _shown(self, wish: Wish, event: wire.Done):
        read = self._client.exchange.read
        vertices = read(event.vertices["file"], np.float32, event.vertices["shape"])
        faces = read(event.faces["file"], np.int32, event.faces["shape"])
        return show(polyData(vertices, faces), wish.to, wish.modelNode)


def polyData(vertices: np.ndarray, faces: np.ndarray):
    """vtkPolyData in RAS mm of a surface in LPS mm."""
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(vertices, np.float32), deep=True))
    cells = vtk.vtkCellArray()
    connectivity = np.hstack([np.full((len(faces), 1), 3, np.int64), faces.astype(np.int64)]).ravel()
    cells.ImportLegacyFormat(numpy_to_vtkIdTypeArray(connectivity, deep=True))
    result = vtk.vtkPolyData()
    result.SetPoints(points)
    result.SetPolys(cells)
    return transformPolyDataToRAS(result)


def show(surface, to=None, modelNode=None):
    """The model node with a surface, its centre moved to world RAS `to`."""
    if to is not None:
        transform = vtk.vtkTransform()
        transform.Translate(*(float(v) for v in to))
        moved = vtk.vtkTransformPolyDataFilter()
        moved.SetTransform(transform)
        moved.SetInputData(surface)
        moved.Update()
        surface = moved.GetOutput()
    if modelNode is None or modelNode.GetScene() is None:  # it may have been deleted meanwhile
        modelNode = _newNode()
    modelNode.SetAndObservePolyData(surface)
    return modelNode


def _newNode():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", _("Shape preview"))
    node.SetSaveWithScene(False)
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSaveWithScene(False)
    display.SetColor(*COLOUR)
    display.SetOpacity(OPACITY)
    display.SetVisibility2D(True)
    display.SetBackfaceCulling(False)
    return node
