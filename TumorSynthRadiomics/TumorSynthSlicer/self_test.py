"""What the module's self-test does, in Slicer and without it; everything is made here, nothing is downloaded.

Each function takes the `unittest.TestCase` to assert with.
"""

from __future__ import annotations

import numpy as np
import slicer

from . import dependencies, history, nodes
from .logic import EditLogic

SHAPE, SPACING = (24, 48, 48), (0.8, 0.8, 1.25)
MODEL = "lung-nodule-ct"


def phantom():
    """A volume node with lung, chest wall and a nodule, and a segmentation node with the nodule."""
    rng = np.random.default_rng(1)
    array = rng.normal(-850, 30, SHAPE)
    wall = np.ones(SHAPE, bool)
    wall[:, 5:-5, 5:-5] = False
    array[wall] = rng.normal(40, 20, int(wall.sum()))
    k, j, i = np.indices(SHAPE)
    x, y, z = SPACING
    mask = ((k - 12) * z) ** 2 + ((j - 20) * y) ** 2 + ((i - 24) * x) ** 2 < 6.0**2
    array[mask] = rng.normal(20, 60, int(mask.sum()))
    toRAS = np.diag([-x, -y, z, 1.0])
    toRAS[:3, 3] = 30.0, 20.0, -100.0
    volumeNode = slicer.util.addVolumeFromArray(
        np.rint(array).astype(np.int16), ijkToRAS=toRAS, name="Phantom"
    )
    segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    segment = segmentationNode.GetSegmentation().AddEmptySegment("nodule", "nodule")
    nodes.setMask(
        segmentationNode, segment, nodes.Mask((slice(0, 24), slice(0, 48), slice(0, 48)), mask), volumeNode
    )
    return volumeNode, segmentationNode, mask


def testMeasure(case) -> None:
    """Measuring gives the features of the segment and needs no torch."""
    volumeNode, segmentationNode, mask = phantom()
    logic = EditLogic()
    try:
        found = logic.measure(volumeNode, segmentationNode, "nodule", MODEL)
        case.assertEqual(found.voxels, int(mask.sum()))
        values = nodes.volumeArray(volumeNode)[mask]
        # On the model's grid, where voxels at the border hold some lung.
        case.assertAlmostEqual(found.features["original_firstorder_Mean"], values.mean(), delta=40.0)
        case.assertIn("original_shape_MeshVolume", found.percentiles)
        case.assertEqual(logic.check("remove", volumeNode, segmentationNode, "nodule", MODEL).reason, "")
        case.assertIn(
            "place a point", logic.check("move", volumeNode, segmentationNode, "nodule", MODEL).reason
        )
    finally:
        logic.close()


def testEdit(case) -> None:
    """Removing changes the nodule and nothing else, and undo brings every voxel back; it needs no torch."""
    volumeNode, segmentationNode, mask = phantom()
    before = nodes.volumeArray(volumeNode).copy()
    logic = EditLogic()
    try:
        outcome = logic.remove(volumeNode, segmentationNode, "nodule", MODEL, seed=1, strict=True)
        after = nodes.volumeArray(volumeNode).copy()
        case.assertTrue(np.array_equal(before[~mask], after[~mask]))
        case.assertLess(after[mask].mean(), before[mask].mean() - 300)
        case.assertEqual(volumeNode.GetAttribute(nodes.SYNTHETIC), "true")
        case.assertEqual(len(history.provenanceOf(volumeNode)), 1)
        case.assertEqual(logic.undo().id, outcome.entryID)
        case.assertTrue(np.array_equal(before, nodes.volumeArray(volumeNode)))
        case.assertIsNone(volumeNode.GetAttribute(nodes.SYNTHETIC))
        logic.redo()
        case.assertTrue(np.array_equal(after, nodes.volumeArray(volumeNode)))
    finally:
        logic.close()


def testNetwork(case) -> None:
    """A model's network draws a tumour with an asked brightness."""
    if dependencies.missing():
        case.skipTest("PyTorch isn't installed")
    volumeNode, segmentationNode, mask = phantom()
    before = nodes.volumeArray(volumeNode).copy()
    logic = EditLogic()
    try:
        options = {"features": {"mean_intensity": -50.0}, "steps": 1, "solve": False, "seed": 1}
        outcome = logic.synthesize(volumeNode, segmentationNode, "nodule", MODEL, **options)
        after = nodes.volumeArray(volumeNode)
        case.assertTrue(np.array_equal(before[~mask], after[~mask]))
        case.assertAlmostEqual(outcome.reached["original_firstorder_Mean"], -50.0, delta=40.0)
    finally:
        logic.close()


TESTS = (testMeasure, testEdit, testNetwork)
