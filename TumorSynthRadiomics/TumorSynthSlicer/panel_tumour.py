"""Section 1, Tumour: which volume, which segment, which model; the features as measured."""

import math

import qt
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TumorSynthSlicer import panel_strip, panel_text
from TumorSynthSlicer.panel_regions import Regions
from TumorSynthSlicer.panel_request import Scale
from TumorSynthSlicer.panel_widgets import (
    SegmentLink,
    fitColumns,
    fitHeight,
    matches,
    sameChain,
    segmentExists,
    segmentRemoved,
    setAvailable,
    setMessage,
)
from TumorSynthSlicer.rows import ANY, NO_MODEL

VARIANCE, DEVIATION = "original_firstorder_Variance", "original_firstorder_StandardDeviation"
DELAY = 200  # ms after the last change of the selection before it is measured
VALUE, PERCENTILE = 1, 2
LONG_UNIT = 8  # letters of a unit that still fit beside its value
HERE = ("bundled", "installed")  # status of a model that can be used
MOST_ROWS = 15  # all main features at a glance; more are scrolled


def removedText() -> str:
    return _("The tumour of this segment was removed; its outline shows where it was.")


def withDeviation(features) -> dict:
    """Features with the standard deviation, which pyradiomics gives as its square only."""
    result = dict(features)
    if VARIANCE in result:
        result.setdefault(DEVIATION, math.sqrt(max(0.0, result[VARIANCE])))
    return result


class TumourSection(VTKObservationMixin):
    """Measures the chosen tumour by itself, whenever it or its volume has changed.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        VTKObservationMixin.__init__(self)
        self._panel, self._ui = panel, panel.ui
        self.measurement, self._stamp, self.error = None, None, ""
        self.regions = Regions(panel)
        self._segment = SegmentLink(self._ui.segmentSelector, panel, "segmentation", "segmentID")
        self._models, self._filled = [], None
        self._chosenFor, self._reason = None, ""
        self._askedFor = None  # the volume and segment that is asked to have other features
        self._timer = panel.timer(DELAY, self._measureIfStale)
        tree = self._ui.featureTree
        tree.setIconSize(qt.QSize(panel_strip.WIDTH, panel_strip.HEIGHT))
        fitColumns(tree)
        self._ui.modelSelector.connect("activated(int)", self._onModel)
        self._ui.measureButton.connect("clicked()", self.measure)
        self._ui.featureSearch.connect("textChanged(QString)", lambda text: self.fill())

    # What is chosen

    def update(self) -> None:
        """Show the parameters, and measure soon if what is chosen has changed."""
        self._segment.update()
        self._observe()
        self._endRequest()
        self._updateModels()
        self.regions.update()
        if self.removed or (self._stamp is not None and self._stamp != self._currentStamp()):
            self.measurement, self.error, self._stamp = None, "", None
        self.fill()
        if self._panel.active:
            self._timer.start()

    def _observe(self) -> None:
        """Hear of changes to the chosen volume's voxels and to the segments."""
        p = self._panel.parameters
        wanted = []
        if p.inputVolume is not None:
            wanted.append((p.inputVolume, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent))
        if p.segmentation is not None:
            segmentation = p.segmentation.GetSegmentation()
            for event in (
                "SegmentAdded",
                "SegmentRemoved",
                "SegmentModified",
                "SourceRepresentationModified",
            ):
                wanted.append((segmentation, getattr(slicer.vtkSegmentation, event)))
        if not all(self.hasObserver(node, event, self._panel.changedSoon) for node, event in wanted):
            self.removeObservers()
            for node, event in wanted:
                self.addObserver(node, event, self._panel.changedSoon)

    def _endRequest(self) -> None:
        """What was asked of one tumour isn't asked of another one."""
        p = self._panel.parameters
        if p.inputVolume is None or not segmentExists(p.segmentation, p.segmentID):
            return
        now, before = (p.inputVolume, p.segmentation, p.segmentID), self._askedFor
        self._askedFor = now
        if before is not None and not (before[1:] == now[1:] and sameChain(before[0], now[0])):
            with slicer.util.NodeModify(p.parameterNode):
                p.textureRequest = p.shapeRequest = "{}"
                p.seriesFeature = ""

    def refresh(self) -> None:
        """The button's state and the message."""
        reason = self._panel.notReady() or (removedText() if self.removed else "")
        setAvailable(self._ui.measureButton, _("Measure the tumour again."), reason)
        setMessage(self._ui.measureMessage, self._message())

    def _message(self) -> str:
        if self.error:
            return self.error
        if self.removed:
            return removedText()
        job = self._panel.job
        if job is not None and job.edit == "measure":
            return _("Measuring…")
        if self.measurement is not None:
            return panel_text.sentences(
                panel_text.plain(text, self._panel.rows()) for text in self.measurement.warnings
            )
        missing = self._panel.missingInput()
        return missing or _("Not measured yet.")

    def _updateModels(self) -> None:
        """Fill the list of models, and choose again for another volume or segment."""
        here = [(row.id, row.title or row.id) for row in self._panel.models() if row.status in HERE]
        here.append((NO_MODEL, _("No model")))
        selector = self._ui.modelSelector
        if [modelID for modelID, _title in here] != self._models:
            self._models = [modelID for modelID, _title in here]
            selector.clear()
            for modelID, title in here:
                selector.addItem(title, modelID)
        parameters = self._panel.parameters
        case = self._case()
        known = parameters.modelID in self._models
        if known and (self._chosenFor is None or None in case):
            self._chosenFor = case if None not in case else None  # as the scene remembers it
        elif known and self._otherRegion(case):
            self._chosenFor = case
        elif case != self._chosenFor or not known:
            self._choose(case)
        selector.setCurrentIndex(selector.findData(parameters.modelID))

    def _case(self) -> tuple:
        """What a model is chosen for."""
        p = self._panel.parameters
        there = segmentExists(p.segmentation, p.segmentID)
        segment = (p.segmentation.GetID(), p.segmentID) if there else None
        return (p.inputVolume.GetID() if p.inputVolume is not None else None, segment)

    def _otherRegion(self, case: tuple) -> bool:
        """Whether another segment of the same tumour is chosen, whose model has several regions."""
        before = self._chosenFor
        if before is None or None in case or before[0] != case[0] or before[1][0] != case[1][0]:
            return False
        rows = [row for row in self._panel.models() if row.id == self._panel.parameters.modelID]
        return any(len(row.regions) > 1 for row in rows)

    def keepModel(self) -> None:
        """The same tumour goes on in another volume or segment: its model and what is asked of it stay."""
        p = self._panel.parameters
        self._chosenFor, self._askedFor = self._case(), (p.inputVolume, p.segmentation, p.segmentID)

    def _choose(self, case: tuple) -> None:
        parameters = self._panel.parameters
        if parameters.inputVolume is None or not self._panel.loaded:
            return
        found = self._panel.logic.chooseModel(
            parameters.inputVolume, parameters.segmentation, parameters.segmentID
        )
        self._chosenFor, self._reason = (case if None not in case else None), found.reason
        if found.modelID != parameters.modelID:
            parameters.modelID = found.modelID

    @property
    def modelReason(self) -> str:
        """Why there is no model, where none was chosen; or why it is the one for any organ."""
        parameters = self._panel.parameters
        if parameters is None or not self._reason:
            return ""
        row = next((row for row in self._panel.models() if row.id == parameters.modelID), None)
        if row is not None and row.organ == ANY:
            return _("{title}: {reason}.").format(title=row.title or row.id, reason=self._reason)
        if parameters.modelID != NO_MODEL:
            return ""
        return _(
            "No model is used, as {reason}. A tumour can be measured, removed and changed without one."
        ).format(reason=self._reason)

    def _onModel(self, index: int) -> None:
        self._reason = ""
        self._panel.parameters.modelID = self._ui.modelSelector.itemData(index)

    @property
    def removed(self) -> bool:
        """Whether the chosen segment shows where a tumour was."""
        p = self._panel.parameters
        return p is not None and segmentRemoved(p.segmentation, p.segmentID)

    # Measuring

    def _currentStamp(self):
        """What a measurement depends on."""
        p = self._panel.parameters
        if p is None or not segmentExists(p.segmentation, p.segmentID) or p.inputVolume is None:
            return None
        image = p.inputVolume.GetImageData()
        times = (image.GetMTime() if image else 0, p.segmentation.GetSegmentation().GetMTime())
        what = (p.inputVolume.GetID(), p.segmentation.GetID(), p.segmentID, p.modelID, self.regions.edited)
        return (*what, *times)

    def _measureIfStale(self) -> None:
        stale = self._stamp != self._currentStamp() and not self.removed
        if self._panel.active and stale and not self._panel.notReady():
            self.measure()

    def measure(self) -> None:
        """Begin to measure; the result arrives later."""
        p = self._panel.parameters
        self._stamp, self.error = self._currentStamp(), ""
        given = ("measure", p.inputVolume, p.segmentation, p.segmentID, p.modelID)
        self._panel.start(*given, onDone=self._onMeasured, **self.regions.options())

    def _onMeasured(self, outcome) -> None:
        self.measurement = outcome.measurement
        self._panel.measured()

    def failed(self, message: str) -> None:
        """A measurement couldn't be made; it is tried again when something has changed."""
        self.measurement, self.error = None, message
        self._panel.measured()

    def forget(self) -> None:
        """Measure again when that is possible, e.g. after a measurement was stopped."""
        self._stamp = None

    def sceneClosed(self) -> None:
        """Nothing of the scene is left."""
        self._stamp = self._chosenFor = self._askedFor = self.measurement = None
        self._reason = self.error = ""

    def measuredStamp(self):
        """What the measurement was made of; None where there is none, or it isn't up to date."""
        there = self.measurement is not None and not self.removed and self._stamp == self._currentStamp()
        return self._stamp if there else None

    @property
    def features(self) -> dict:
        """Measured values by pyradiomics' names; empty before the first measurement."""
        return withDeviation(self.measurement.features) if self.measurement is not None else {}

    # The table

    def fill(self) -> None:
        """Show the features that the search and the check box leave."""
        tree, p = self._ui.featureTree, self._panel.parameters
        words, rows = self._ui.featureSearch.text, self._panel.rows()
        everything = p is not None and p.allFeatures
        shownNow = (words, everything, id(rows), id(self.measurement))
        if shownNow == self._filled:
            return
        self._filled = shownNow
        tree.clear()
        for row in rows:
            shown = words or everything or row.role == "driver"
            if self.measurement is not None and shown and matches(words, row.label, row.name, row.meaning):
                self._addRow(tree, row)
        tree.setVisible(self.measurement is not None)
        self._ui.featureSearch.setVisible(self.measurement is not None)
        self._ui.allFeaturesCheckBox.setVisible(self.measurement is not None)
        fitHeight(tree, most=MOST_ROWS)

    def _addRow(self, tree, row) -> None:
        measured = self.features.get(row.name)
        if measured is None:
            return
        value = measured / row.factor
        percentile = self.measurement.percentiles.get(VARIANCE if row.name == DEVIATION else row.name)
        item = qt.QTreeWidgetItem(tree)
        item.setText(0, row.label)
        unit = row.unit if len(row.unit) <= LONG_UNIT else ""  # else in the tooltip
        item.setText(VALUE, panel_text.withUnit(value, unit))
        item.setTextAlignment(VALUE, qt.Qt.AlignRight | qt.Qt.AlignVCenter)
        if row.percentiles:
            scale = Scale(row, [value])
            item.setIcon(
                PERCENTILE, qt.QIcon(panel_strip.pixmap(tree.palette, scale, row.percentiles, value))
            )
        item.setText(PERCENTILE, panel_text.percentile(percentile))
        for column in range(3):
            item.setToolTip(column, self._tip(row, value, percentile))

    def _tip(self, row, value, percentile) -> str:
        lines = [row.meaning, f"{row.name}: {panel_text.withUnit(value, row.unit)}"]
        if percentile is not None:
            text = _("Higher than in {percent} of the model's tumours.")
            lines.append(text.format(percent=panel_text.percentile(percentile)))
        return "\n".join(lines)
