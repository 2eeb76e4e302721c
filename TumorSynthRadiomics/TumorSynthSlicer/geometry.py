"""The one place where Slicer's RAS and the engine's LPS meet.

Matrices are (4, 4) float arrays; voxel indices are (i, j, k), positions millimetres. Slicer gives IJK → RAS, the engine takes
spacing, origin and direction in LPS. Parent transforms count: "world" is what the user sees.
"""

from __future__ import annotations

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from TumorSynthLib.errors import InputError

RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
SHEAR = 1e-3  # cosine between axes from which they don't count as perpendicular


def toLPS(position) -> tuple[float, float, float]:
    """(x, y, z) LPS of a world RAS position."""
    r, a, s = (float(v) for v in position)
    return -r, -a, s


def toRAS(position) -> tuple[float, float, float]:
    """World (R, A, S) of an LPS position."""
    return toLPS(position)


def worldMatrix(node) -> np.ndarray:
    """(4, 4) node RAS → world RAS.

    :raises InputError: the parent transform isn't linear.
    """
    parent = node.GetParentTransformNode()
    if parent is None:
        return np.eye(4)
    if not parent.IsTransformToWorldLinear():
        raise InputError(
            _(
                "{name} lies under a non-linear transform, in which its voxels have no one size: "
                "harden the transform first (Data module, right click on the transform)"
            ).format(name=node.GetName())
        )
    matrix = vtk.vtkMatrix4x4()
    parent.GetMatrixTransformToWorld(matrix)
    return fromVTK(matrix)


def volumeMatrix(volumeNode) -> np.ndarray:
    """(4, 4) voxel index (i, j, k) → world RAS of a volume."""
    matrix = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(matrix)
    return worldMatrix(volumeNode) @ fromVTK(matrix)


def labelmapMatrix(labelmap, segmentationNode) -> np.ndarray:
    """(4, 4) voxel index of a segment's labelmap → world RAS."""
    matrix = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(matrix)  # VTK's "world" is the segmentation's own RAS
    return worldMatrix(segmentationNode) @ fromVTK(matrix)


def lpsGeometry(matrix: np.ndarray, name: str) -> tuple[tuple, tuple, tuple]:
    """Spacing, origin and direction, as the engine takes them, of an index → world RAS matrix.

    :raises InputError: the axes aren't perpendicular, as under a transform that shears.
    """
    lps = RAS_TO_LPS @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    if spacing.min() < 1e-9:
        raise InputError(
            _("{name} has no usable geometry: check its spacing and transform").format(name=name)
        )
    direction = lps[:3, :3] / spacing
    if np.abs(direction.T @ direction - np.eye(3)).max() > SHEAR:
        raise InputError(
            _(
                "the axes of {name} aren't perpendicular (its transform shears or scales along a tilted axis): "
                "harden the transform and resample the volume first"
            ).format(name=name)
        )
    spacing, origin = (tuple(float(v) for v in values) for values in (spacing, lps[:3, 3]))
    return spacing, origin, tuple(float(v) for v in direction.ravel())


def transformPolyDataToRAS(polyData):
    """A surface in LPS mm as one in RAS mm."""
    transform = vtk.vtkTransform()
    transform.Scale(-1, -1, 1)
    transformed = vtk.vtkTransformPolyDataFilter()
    transformed.SetTransform(transform)
    transformed.SetInputData(polyData)
    transformed.Update()
    return transformed.GetOutput()


def fromVTK(matrix) -> np.ndarray:
    """(4, 4) array of a vtkMatrix4x4."""
    return np.array([[matrix.GetElement(i, j) for j in range(4)] for i in range(4)])


def toVTK(array: np.ndarray):
    """vtkMatrix4x4 of a (4, 4) array."""
    return slicer.util.vtkMatrixFromArray(np.asarray(array, float))
