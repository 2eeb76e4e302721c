"""Part of section 1: which segment is which region, shown for a model that paints several regions one at a time."""

import json

import qt
from slicer.i18n import tr as _

from TumorSynthSlicer.panel_widgets import segmentExists


class Regions:
    """A list of segments for each region of the model; the tumour that is chosen above them is the one that is edited.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._ui = panel, panel.ui
        self._selectors, self._there = {}, {}

    @property
    def names(self) -> tuple:
        """The regions of the chosen model; empty where it has only one."""
        chosen = self._panel.parameters.modelID if self._panel.parameters is not None else ""
        return next((row.regions for row in self._panel.models() if row.id == chosen), ())

    def update(self) -> None:
        """Show the parameters."""
        p, names = self._panel.parameters, self.names
        self._there = {}
        if names and p.segmentation is not None:
            self._there = self._panel.logic.assignRegions(p.modelID, p.segmentation, self._chosen())
        self._makeRows(names)
        for name, selector in self._selectors.items():
            self._fill(name, selector)
        self._ui.regionOptions.setVisible(bool(names))

    def _chosen(self) -> dict:
        """What the user chose and is still there."""
        p = self._panel.parameters
        try:
            chosen = json.loads(p.regionSegments)
            return {
                name: segment
                for name, segment in chosen.items()
                if name in self.names and (not segment or segmentExists(p.segmentation, segment))
            }
        except (ValueError, TypeError, AttributeError):
            return {}  # a scene from elsewhere: begin afresh

    def _makeRows(self, names) -> None:
        if tuple(self._selectors) == tuple(names):
            return
        layout = self._ui.regionOptions.layout()
        while layout.rowCount():
            layout.removeRow(0)
        self._selectors = {}
        for name in names:
            selector = qt.QComboBox()
            selector.setObjectName(f"{name}_region")
            selector.setToolTip(
                _("The segment that is this region of the tumour; only the tumour chosen above is edited.")
            )
            selector.setSizeAdjustPolicy(qt.QComboBox.AdjustToMinimumContentsLengthWithIcon)
            selector.setMinimumContentsLength(8)
            selector.connect("activated(int)", lambda index, name=name: self._onChosen(name, index))
            layout.addRow(_("{region}:").format(region=name.capitalize()), selector)
            self._selectors[name] = selector

    def _fill(self, name: str, selector) -> None:
        segmentation = self._panel.parameters.segmentation
        selector.clear()
        selector.addItem(_("None"), "")
        if segmentation is not None:
            for segment in segmentation.GetSegmentation().GetSegmentIDs():
                selector.addItem(segmentation.GetSegmentation().GetSegment(segment).GetName(), segment)
        selector.setCurrentIndex(max(0, selector.findData(self._there.get(name, ""))))

    def _onChosen(self, name: str, index: int) -> None:
        """Take a segment for a region, and away from the one that had it."""
        p, segment = self._panel.parameters, self._selectors[name].itemData(index)
        if p is None:
            return
        others = {n: s for n, s in self._there.items() if n != name and s != segment}
        p.regionSegments = json.dumps({**dict.fromkeys(self.names, ""), **others, name: segment})

    @property
    def edited(self) -> str:
        """The region that the chosen tumour is; empty if it is none, or the model has only one."""
        p = self._panel.parameters
        return (
            next((name for name, segment in self._there.items() if segment == p.segmentID), "") if p else ""
        )

    def options(self) -> dict:
        """What the logic is told of regions."""
        return {"regions": {**dict.fromkeys(self.names, ""), **self._there}} if self.names else {}

    def missing(self) -> str:
        """What has to be said of the regions before anything can be done; empty if nothing."""
        if self.names and not self.edited:
            return _("Say under 1 Tumour which region of the model the chosen segment is.")
        return ""
