"""Volumes and segmentations for the tests of the Slicer module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import slicer
import slicer_runtime
import vtk

slicer_runtime.start()

from TumorSynthSlicer import nodes  # noqa: E402  its folder is on the path once Slicer is started


def load(image: Path, label: Path, name: str = "", value: int = 1):
    """Volume and segmentation node of two files; the segment is called tumour."""
    volumeNode = slicer.util.loadVolume(str(image), {"name": name or image.name.split(".")[0]})
    labelNode = slicer.util.loadLabelVolume(str(label))
    array = slicer.util.arrayFromVolume(labelNode) == value
    segmentationNode = segmentation(volumeNode, array)
    slicer.mrmlScene.RemoveNode(labelNode)
    return volumeNode, segmentationNode, array


def segmentation(volumeNode, mask: np.ndarray, name: str = "Segmentation"):
    """A segmentation node with one segment, tumour, on the grid of a volume."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    transform = volumeNode.GetParentTransformNode()
    node.SetAndObserveTransformNodeID(transform.GetID() if transform else None)
    node.GetSegmentation().AddEmptySegment("tumour", "tumour")
    whole = tuple(slice(0, n) for n in mask.shape)
    nodes.setMask(node, "tumour", nodes.Mask(whole, mask), volumeNode)
    return node


def lung(data: Path):
    """pyradiomics' lung1, cropped."""
    folder = data / "pyradiomics"
    return load(folder / "lung1_image.nrrd", folder / "lung1_label.nrrd", "lung1")


def sarcoma(data: Path):
    """A small soft-tissue sarcoma in T1, of a patient that no model was trained on."""
    stem = data / "sts" / "val" / "STS_041_T1"
    return load(Path(f"{stem}_image.nii.gz"), Path(f"{stem}_mask.nii.gz"), "sarcoma")


def largeSarcoma(data: Path):
    """A sarcoma of 110,000 voxels in T1, of a patient that no model was trained on."""
    stem = data / "sts" / "val" / "STS_036_T1"
    return load(Path(f"{stem}_image.nii.gz"), Path(f"{stem}_mask.nii.gz"), "large sarcoma")


def brain(data: Path):
    """pyradiomics' brain1, for which there is no model."""
    folder = data / "pyradiomics"
    return load(folder / "brain1_image.nrrd", folder / "brain1_label.nrrd", "brain1")


def transformNode(matrix: np.ndarray):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Transform")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def nonlinearTransformNode():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Warp")
    spline = vtk.vtkThinPlateSplineTransform()
    for points, shift in ((spline.SetSourceLandmarks, 0.0), (spline.SetTargetLandmarks, 5.0)):
        landmarks = vtk.vtkPoints()
        for i, corner in enumerate(((0, 0, 0), (90, 0, 0), (0, 90, 0), (0, 0, 90))):
            landmarks.InsertNextPoint(*(c + shift * (i == 1) for c in corner))
        points(landmarks)
    node.SetAndObserveTransformToParent(spline)
    return node


def rotated(degrees: float, scale: float = 1.0, shift=(0.0, 0.0, 0.0)) -> np.ndarray:
    """(4, 4) rotation about a tilted axis with a uniform scale and a shift."""
    transform = vtk.vtkTransform()
    transform.Translate(*shift)
    transform.RotateWXYZ(degrees, 1.0, 2.0, 3.0)
    transform.Scale(scale, scale, scale)
    return slicer.util.arrayFromVTKMatrix(transform.GetMatrix())


def drain(logic, job, seconds: float = 120.0) -> None:
    """What the event loop does: poll until an edit has ended."""
    import time

    limit = time.monotonic() + seconds
    while job.isRunning() and time.monotonic() < limit:
        logic.poll()
        time.sleep(0.005)
    assert not job.isRunning(), "the edit didn't end"
