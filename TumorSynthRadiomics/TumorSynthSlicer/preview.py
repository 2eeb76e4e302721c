"""The surface of a shape that has asked features, as a model node; computed in this process, in tens of milliseconds."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

from TumorSynthLib import models

from .geometry import transformPolyDataToRAS

COLOUR, OPACITY = (0.95, 0.75, 0.2), 0.5


@lru_cache(maxsize=2)
def _shapeModel(folder: str, sha256: str):
    """The shape model of a bundle; its hash is there so that another version is read anew."""
    from TumorSynthLib.shaping import Shaper

    return Shaper(models.load_bundle(folder), "cpu").model


def polyData(modelID: str, features: Mapping[str, float], seed: int = 0):
    """vtkPolyData in RAS mm about its centre of mass.

    :raises InputError: features that no shape has. :raises ModelError: the model knows no shapes.
    """
    bundle = models.find(modelID)
    surface = _shapeModel(str(bundle.folder), bundle.sha256).preview(features, seed)
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(surface.vertices, np.float32), deep=True))
    faces = np.ascontiguousarray(surface.faces, np.int64)
    cells = vtk.vtkCellArray()
    connectivity = np.hstack([np.full((len(faces), 1), 3, np.int64), faces]).ravel()
    cells.ImportLegacyFormat(numpy_to_vtkIdTypeArray(connectivity, deep=True))
    result = vtk.vtkPolyData()
    result.SetPoints(points)
    result.SetPolys(cells)
    return transformPolyDataToRAS(result)


def show(modelID: str, features: Mapping[str, float], seed: int = 0, to=None, modelNode=None):
    """See `api.Logic.previewShape`."""
    surface = polyData(modelID, features, seed)
    if to is not None:
        transform = vtk.vtkTransform()
        transform.Translate(*(float(v) for v in to))
        moved = vtk.vtkTransformPolyDataFilter()
        moved.SetTransform(transform)
        moved.SetInputData(surface)
        moved.Update()
        surface = moved.GetOutput()
    if modelNode is None:
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
