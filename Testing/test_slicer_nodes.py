"""Nodes as the engine's arrays: geometry under transforms, segments of other grids, and back."""

import itertools

import numpy as np
import pytest
import slicer
import slicer_case
import slicer_runtime

from TumorSynthLib.errors import ImageWarning, InputError
from TumorSynthLib.volume import read_image, read_mask, write_volume

slicer_runtime.start()

from TumorSynthSlicer import geometry, nodes, segments  # noqa: E402

SHAPE, SPACING = (9, 14, 12), (0.9, 1.1, 2.5)


@pytest.fixture(autouse=True)
def scene():
    with slicer_runtime.freshScene():
        yield


def volume(matrix=None, array=None):
    """A volume node with distinct voxels; matrix (4, 4) is IJK → RAS."""
    if matrix is None:
        matrix = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    array = np.arange(np.prod(SHAPE), dtype=np.int16).reshape(SHAPE) if array is None else array
    return slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="image")


def blob() -> np.ndarray:
    """A shape without symmetry."""
    mask = np.zeros(SHAPE, bool)
    mask[2:6, 3:9, 4:10] = True
    mask[2, 3, 4:8] = mask[5, 8, 9] = False
    mask[6, 3, 4] = True
    return mask


def orientations():
    """All 48 axis orders and directions of a scanner's grid, as (4, 4) IJK → RAS."""
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((-1.0, 1.0), repeat=3):
            matrix = np.eye(4)
            matrix[:3, :3] = 0.0
            for axis, (row, sign) in enumerate(zip(order, signs)):
                matrix[row, axis] = sign * SPACING[axis]
            matrix[:3, 3] = 11.0, -7.0, 42.0
            yield matrix


def test_geometry_is_that_of_a_file_in_every_orientation(tmp_path):
    for matrix in orientations():
        node = volume(matrix)
        path = tmp_path / "v.nrrd"
        assert slicer.util.saveNode(node, str(path))
        ours, file = nodes.volumeOf(node), read_image(path)
        assert ours.same_grid(file) and np.array_equal(ours.array, file.array)
        slicer.mrmlScene.RemoveNode(node)


def test_mask_on_the_same_grid_is_exact_in_every_orientation():
    for matrix in orientations():
        node = volume(matrix)
        segmentationNode = slicer_case.segmentation(node, blob())
        assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), blob())
        for made in (segmentationNode, node):
            slicer.mrmlScene.RemoveNode(made)


@pytest.mark.parametrize("scale", (1.0, 1.7))
def test_common_parent_transform_changes_geometry_not_voxels(scale):
    node = volume()
    matrix = slicer_case.rotated(37.0, scale, (5.0, -3.0, 20.0))
    node.SetAndObserveTransformNodeID(slicer_case.transformNode(matrix).GetID())
    segmentationNode = slicer_case.segmentation(node, blob())
    ours = nodes.volumeOf(node)
    assert np.allclose(ours.spacing, np.array(SPACING) * scale)
    index = np.array([3.0, 5.0, 2.0, 1.0])
    ijkToRAS = np.diag([-SPACING[0], -SPACING[1], SPACING[2], 1.0])
    world = matrix @ ijkToRAS @ index
    assert np.allclose(geometry.toRAS(ours.points(index[:3])), world[:3])
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), blob())


def test_hardened_transform_gives_the_same_input():
    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    transform = slicer_case.transformNode(slicer_case.rotated(37.0, 1.3))
    for made in (node, segmentationNode):
        made.SetAndObserveTransformNodeID(transform.GetID())
    under = nodes.volumeOf(node)
    mask = nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE)
    for made in (node, segmentationNode):
        made.HardenTransform()
    assert node.GetParentTransformNode() is None
    assert nodes.volumeOf(node).same_grid(under)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), mask)


def test_segment_of_another_grid_equals_slicers_own_resampling():
    big = np.zeros((30, 40, 40), bool)
    big[8:22, 10:30, 12:28] = True
    image = volume(np.diag([-1.0, -1.0, 1.5, 1.0]), np.zeros(big.shape, np.int16))
    matrix = slicer_case.rotated(12.0, 1.0, (-4.0, 3.0, 2.0)) @ np.diag([-0.7, -0.8, 1.1, 1.0])
    matrix[:3, 3] += 2.0, -3.0, 5.0
    other = volume(matrix, np.zeros(big.shape, np.int16))
    segmentationNode = slicer_case.segmentation(other, big)
    slicer_mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, "tumour", image)
    ours = nodes.maskOf(segmentationNode, "tumour", image).full(big.shape)
    assert ours.sum() > 1500
    assert np.count_nonzero(ours != (slicer_mask != 0)) <= 0.001 * ours.sum()


def test_segment_of_another_grid_equals_the_command_line(shared_data, tmp_path):
    """A mask on a grid of its own is brought to the image as `read_mask` does it for a file."""
    volumeNode, segmentationNode, _mask = slicer_case.lung(shared_data)
    matrix = np.eye(4)
    matrix[:3, 3] = 0.2, -0.15, 1.0  # a fraction of a voxel
    segmentationNode.SetAndObserveTransformNodeID(slicer_case.transformNode(matrix).GetID())
    ours = nodes.maskOf(segmentationNode, "tumour", volumeNode).full(nodes.volumeArray(volumeNode).shape)
    image = read_image(shared_data / "pyradiomics" / "lung1_image.nrrd")
    label = read_image(shared_data / "pyradiomics" / "lung1_label.nrrd")
    shifted = (label.origin[0] - 0.2, label.origin[1] + 0.15, label.origin[2] + 1.0)
    write_volume(type(label)(label.array, label.spacing, shifted, label.direction), tmp_path / "m.nrrd")
    with pytest.warns(ImageWarning, match="another grid"):
        assert np.array_equal(ours, read_mask(tmp_path / "m.nrrd", image))


def test_written_mask_is_read_back_exactly_under_different_transforms():
    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    segmentationNode.SetAndObserveTransformNodeID(
        slicer_case.transformNode(slicer_case.rotated(20.0)).GetID()
    )
    node.SetAndObserveTransformNodeID(slicer_case.transformNode(slicer_case.rotated(-11.0, 1.2)).GetID())
    nodes.setMask(segmentationNode, "tumour", nodes.Mask(tuple(slice(0, n) for n in SHAPE), blob()), node)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), blob())


def test_other_segments_stay_when_one_is_written():
    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    other = np.zeros(SHAPE, bool)
    other[1:8, 2:12, 1:11] = True
    segmentationNode.GetSegmentation().AddEmptySegment("organ", "organ")
    nodes.setMask(segmentationNode, "organ", nodes.Mask(tuple(slice(0, n) for n in SHAPE), other), node)
    segmentationNode.GetSegmentation().CollapseBinaryLabelmaps(False)
    moved = np.roll(blob(), 2, axis=2)
    nodes.setMask(segmentationNode, "tumour", nodes.Mask(tuple(slice(0, n) for n in SHAPE), moved), node)
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), moved)
    assert np.array_equal(nodes.maskOf(segmentationNode, "organ", node).full(SHAPE), other)


def test_closed_surface_is_kept_up_to_date():
    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    segmentationNode.CreateClosedSurfaceRepresentation()
    before = segmentationNode.GetClosedSurfaceInternalRepresentation("tumour").GetBounds()
    nodes.setMask(
        segmentationNode, "tumour", nodes.Mask(tuple(slice(0, n) for n in SHAPE), np.roll(blob(), 2, 2)), node
    )
    after = segmentationNode.GetClosedSurfaceInternalRepresentation("tumour").GetBounds()
    assert after[0] == pytest.approx(before[0] - 2 * SPACING[0], abs=0.05)


def test_state_of_a_segment_survives_as_json():
    import json

    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    item = segmentationNode.GetSegmentation().GetSegment("tumour")
    item.SetColor(0.2, 0.4, 0.6)
    item.SetTag("TerminologyEntry", segments.MASS)
    state = json.loads(json.dumps(segments.stateOf(segmentationNode, "tumour")))
    segments.removeSegment(segmentationNode, "tumour")
    segments.restoreSegment(segmentationNode, "tumour", state)
    item = segmentationNode.GetSegmentation().GetSegment("tumour")
    assert item.GetName() == "tumour" and np.allclose(item.GetColor(), (0.2, 0.4, 0.6))
    assert segments.stateOf(segmentationNode, "tumour") == state
    assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", node).full(SHAPE), blob())


def sheared():
    matrix = np.eye(4)
    matrix[0, 1] = 0.4
    return matrix


def color():
    return slicer.util.addVolumeFromArray(
        np.zeros((4, 5, 6, 3), np.uint8), nodeClassName="vtkMRMLVectorVolumeNode"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: None, "no volume is selected"),
        (lambda: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "empty"), "has no voxels"),
        (color, "several values per voxel"),
    ],
)
def test_unfit_volumes_are_refused(make, words):
    with pytest.raises(InputError, match=words):
        nodes.volumeOf(make())


def test_shear_and_warp_are_refused():
    node = volume()
    node.SetAndObserveTransformNodeID(slicer_case.transformNode(sheared()).GetID())
    with pytest.raises(InputError, match="aren't perpendicular"):
        nodes.volumeOf(node)
    node.SetAndObserveTransformNodeID(slicer_case.nonlinearTransformNode().GetID())
    with pytest.raises(InputError, match="non-linear"):
        nodes.volumeOf(node)


def test_unfit_segments_are_refused():
    node = volume()
    segmentationNode = slicer_case.segmentation(node, blob())
    with pytest.raises(InputError, match="no segmentation is selected"):
        nodes.segmentID(None)
    with pytest.raises(InputError, match="no segment nothing"):
        nodes.segmentID(segmentationNode, "nothing")
    segmentationNode.GetSegmentation().AddEmptySegment("hollow", "hollow")
    with pytest.raises(InputError, match="several segments"):
        nodes.segmentID(segmentationNode)
    with pytest.raises(InputError, match="hollow is empty"):
        nodes.maskOf(segmentationNode, "hollow", node)
    far = np.eye(4)
    far[:3, 3] = 6.0, 0.0, 0.0
    segmentationNode.SetAndObserveTransformNodeID(slicer_case.transformNode(far).GetID())
    with pytest.raises(InputError, match="% of the segment tumour lies outside"):
        nodes.maskOf(segmentationNode, "tumour", node)
