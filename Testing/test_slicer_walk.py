"""One walk through every task with each kind of image: right voxels, right geometry, and back again bit for bit.

Brain1 has no model of its own: the sarcoma's, which knows T1, edits it with a warning.
"""

import json

import numpy as np
import pytest
import slicer
import slicer_case
import slicer_runtime

slicer_runtime.start()

from TumorSynthSlicer import nodes  # noqa: E402

LUNG, SARCOMA = "lung-nodule-ct", "soft-tissue-sarcoma"
QUICK = {"steps": 1, "solve": False, "seed": 5}
CASES = {
    "lung1": (slicer_case.lung, LUNG, {}, (-10.0, -14.0, 0.0)),
    "sarcoma": (slicer_case.sarcoma, SARCOMA, {"modality": "T1"}, (4.0, 4.0, 0.0)),
    "brain1": (slicer_case.brain, SARCOMA, {"modality": "T1"}, (8.0, 4.0, 0.0)),
}


@pytest.fixture(scope="module")
def worker():
    logic = slicer_runtime.moduleLogic()
    yield logic
    logic.close()


class Walk:
    """A case under a common rotation of both nodes, as a registration leaves it."""

    def __init__(self, logic, name: str, data):
        load, self.model, self.options, shift = CASES[name]
        self.logic, self.name = logic, name
        self.volume, self.segmentation, self.mask = load(data)
        self.transform = slicer_case.transformNode(slicer_case.rotated(20.0, 1.0, (15.0, 0.0, -5.0)))
        for node in (self.volume, self.segmentation):
            node.SetAndObserveTransformNodeID(self.transform.GetID())
        self.matrix, self.original = nodes.volumeMatrix(self.volume), self.voxels()
        centre = np.array([*self.segmentation.GetSegmentCenterRAS("tumour"), 1.0])
        matrix = slicer.util.arrayFromTransformMatrix(self.transform)
        self.place = (matrix @ (centre + (*shift, 0.0)))[:3]

    def voxels(self, node=None) -> np.ndarray:
        return slicer.util.arrayFromVolume(node or self.volume).copy()

    def segment(self, segmentID: str = "tumour") -> np.ndarray:
        return nodes.maskOf(self.segmentation, segmentID, self.volume).full(self.mask.shape)

    def edit(self, name: str, **options):
        """Do an edit, and check that only the old and the new tumour changed, and the geometry not at all."""
        before, old = self.voxels(), self.segment()
        given = (self.volume, self.segmentation, "tumour", self.model)
        quick = {key: QUICK[key] for key in QUICK if name != "remove" or key != "solve"}
        outcome = getattr(self.logic, name)(*given, **{**quick, **self.options, **options})
        after, new = self.voxels(), self.segment(outcome.segmentID)
        changed = before != after
        assert changed.any() and not (changed & ~(old | new)).any(), name
        assert np.array_equal(nodes.volumeMatrix(self.volume), self.matrix), name
        assert outcome.provenance["operation"] == {"retexture": "synthesize"}.get(name, name)
        assert set(outcome.asked) <= set(outcome.reached)
        return outcome, after


@pytest.fixture(params=CASES)
def walk(worker, shared_data, request):
    with slicer_runtime.freshScene():
        yield Walk(worker, request.param, shared_data)


def test_every_task_and_back(walk, tmp_path):
    logic, given = walk.logic, (walk.volume, walk.segmentation, "tumour", walk.model)
    measured = logic.measure(*given, modality=walk.options.get("modality"))
    assert measured.voxels == walk.mask.sum() and len(measured.features) > 100
    assert measured.warnings or walk.name != "brain1"  # an organ that the model doesn't know
    mean = measured.features["original_firstorder_Mean"]
    volume = measured.features["original_shape_MeshVolume"] / 1000
    states = [walk.original]
    for name, options in (
        ("synthesize", {"features": {"mean_intensity": 0.9 * mean}}),
        ("retexture", {"donor": (walk.volume, walk.segmentation, "tumour")}),
        ("reshape", {"features": {"volume_ml": 0.7 * volume}}),
        ("move", {"to": walk.place, "nearest": True}),
        ("remove", {}),
        ("insert", {"to": walk.place, "features": {"volume_ml": 0.5 * volume}, "nearest": True}),
    ):
        outcome, after = walk.edit(name, **options)
        states.append(after)
    inserted = walk.segment(outcome.segmentID)
    assert inserted.sum() * abs(np.linalg.det(walk.matrix[:3, :3])) / 1000 == pytest.approx(
        0.5 * volume, rel=0.25
    )
    series = logic.series(*given, feature="volume_ml", values=["0.7x", "1x"], **QUICK, **walk.options)
    assert series.sequenceNodes[0].GetNumberOfDataNodes() == 2 and np.array_equal(walk.voxels(), states[-1])
    entries = [e for e in logic.history() if e.edit != "series"]
    assert np.array_equal(walk.voxels(logic.beforeVolume(entries[0].id)), walk.original)
    logic.hideBefore()
    for state in reversed(states[:-1]):
        logic.undo()
        assert np.array_equal(walk.voxels(), state)
    assert np.array_equal(walk.segment(), walk.mask) and not logic.canUndo()
    assert walk.segmentation.GetSegmentation().GetNumberOfSegments() == 1
    for state in states[1:]:
        logic.redo()
        assert np.array_equal(walk.voxels(), state)
    again = logic.repeat(entries[0].id)
    assert np.array_equal(walk.voxels(again.volumeNode), states[1])
    path = logic.saveResult(str(tmp_path / "edited.nii.gz"), entries[0].id)
    assert json.loads((tmp_path / "edited.json").read_text())["synthetic"] is True and path.endswith(
        ".nii.gz"
    )


def test_a_rim_is_removed_too_and_the_segment_stays(worker, shared_data):
    with slicer_runtime.freshScene():
        volumeNode, segmentationNode, mask = slicer_case.lung(shared_data)
        before = slicer.util.arrayFromVolume(volumeNode).copy()
        worker.remove(volumeNode, segmentationNode, "tumour", LUNG, grow=1.5, steps=1)
        changed = slicer.util.arrayFromVolume(volumeNode) != before
        assert (changed & ~mask).any()
        assert np.array_equal(nodes.maskOf(segmentationNode, "tumour", volumeNode).full(mask.shape), mask)
        worker.undo()
        assert np.array_equal(slicer.util.arrayFromVolume(volumeNode), before)
