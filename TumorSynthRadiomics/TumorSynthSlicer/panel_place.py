"""Part of section 2: the point that a tumour is moved to or inserted at, and the organ that it must stay in."""

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_widgets import SegmentLink, segmentExists, setAvailable


class Place(VTKObservationMixin):
    """The first defined point of a markups list.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        VTKObservationMixin.__init__(self)
        self._panel, self._ui = panel, panel.ui
        self._inside = SegmentLink(self._ui.insideSelector, panel, "insideSegmentation", "insideSegmentID")
        self._ui.placeButton.connect("toggled(bool)", self._onPlace)

    def update(self) -> None:
        """Show the parameters and follow the chosen point."""
        self._inside.update()
        point = self._panel.parameters.point
        if not self.hasObserver(point, slicer.vtkMRMLMarkupsNode.PointModifiedEvent, self._onPoint):
            self.removeObservers(self._onPoint)
            if point is not None:
                for event in ("PointModifiedEvent", "PointPositionDefinedEvent", "PointRemovedEvent"):
                    self.addObserver(point, getattr(slicer.vtkMRMLMarkupsNode, event), self._onPoint)
        self._showPosition()

    def refresh(self) -> None:
        tip = _("Click the new centre in a slice or 3-D view.")
        setAvailable(self._ui.placeButton, tip, self._panel.busy())

    def position(self):
        """World RAS mm of the point, or None."""
        parameters = self._panel.parameters
        point = parameters.point if parameters is not None else None
        for i in range(point.GetNumberOfControlPoints() if point is not None else 0):
            if point.GetNthControlPointPositionStatus(i) == slicer.vtkMRMLMarkupsNode.PositionDefined:
                position = [0.0, 0.0, 0.0]
                point.GetNthControlPointPositionWorld(i, position)
                return tuple(position)
        return None

    def options(self) -> dict:
        """What an edit is told of the place."""
        parameters = self._panel.parameters
        result = {"nearest": parameters.nearest}
        if self.position() is not None:
            result["to"] = self.position()
        if segmentExists(parameters.insideSegmentation, parameters.insideSegmentID):
            result["inside"] = (parameters.insideSegmentation, parameters.insideSegmentID)
        return result

    def stop(self) -> None:
        """Leave place mode, e.g. when the user goes to another module."""
        self._ui.placeButton.checked = False

    def close(self) -> None:
        self.stop()
        self.removeObservers()

    def _onPlace(self, on: bool) -> None:
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if not on:
            if interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place:
                interaction.SetCurrentInteractionMode(interaction.ViewTransform)
            return
        point = self._panel.parameters.point
        if point is None:
            point = self._ui.pointSelector.addNode()
        point.RemoveAllControlPoints()
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(point)
        markups.StartPlaceMode(False)

    def _onPoint(self, caller, event) -> None:
        if self.position() is not None:
            self.stop()
        self._showPosition()
        self._panel.requestChanged()

    def _showPosition(self) -> None:
        position = self.position()
        if position is None:
            self._ui.positionLabel.text = _("No point yet.")
            return
        r, a, s = (panel_text.number(round(v, 1)) for v in position)
        self._ui.positionLabel.text = _("R {r}, A {a}, S {s} mm").format(r=r, a=a, s=s)
