"""Part of section 2: the point that a tumour is moved to or inserted at, and the organ that it must stay in."""

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from TumorSynthSlicer import panel_text
from TumorSynthSlicer.panel_widgets import SegmentChoice, setAvailable


class Place(VTKObservationMixin):
    """The first defined point of a markups list.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        VTKObservationMixin.__init__(self)
        self._panel, self._ui = panel, panel.ui
        self._inside = SegmentChoice(self._ui.insideSelector, panel, "inside", _("The body"))
        self._ui.placeButton.connect("toggled(bool)", self._onPlace)
        self._replace = panel.timer(0, self._keepNewest)

    def update(self) -> None:
        """Show the parameters and follow the chosen point."""
        self._inside.update()
        self._observeMode()
        point, events = self._panel.parameters.point, slicer.vtkMRMLMarkupsNode
        if not self.hasObserver(point, events.PointModifiedEvent, self._onPoint):
            self.removeObservers(self._onPoint)
            self.removeObservers(self._onPlaced)
            if point is not None:
                self.addObserver(point, events.PointModifiedEvent, self._onPoint)
                self.addObserver(point, events.PointRemovedEvent, self._onPoint)
                self.addObserver(point, events.PointPositionDefinedEvent, self._onPlaced)
        self._showMode()
        self._showPosition()

    def refresh(self) -> None:
        tip = _("Click the new centre in a slice or 3-D view.")
        setAvailable(self._ui.placeButton, tip, self._panel.busy())
        parameters = self._panel.parameters
        self._ui.autoPlaceCheckBox.setVisible(parameters is not None and parameters.edit == "insert")
        for name in ("pointLabel", "pointSelector", "positionLabel", "placeButton", "nearestCheckBox"):
            getattr(self._ui, name).setVisible(not self.finds())

    def position(self):
        """World RAS mm of the point, or None."""
        parameters = self._panel.parameters
        point = parameters.point if parameters is not None else None
        defined = self._defined(point) if point is not None else []
        if not defined:
            return None
        position = [0.0, 0.0, 0.0]
        point.GetNthControlPointPositionWorld(defined[0], position)
        return tuple(position)

    @staticmethod
    def _defined(point) -> list:
        """Indices of the points that have been placed; the one under the mouse in place mode is a preview only."""
        placed = slicer.vtkMRMLMarkupsNode.PositionDefined
        count = point.GetNumberOfControlPoints()
        return [i for i in range(count) if point.GetNthControlPointPositionStatus(i) == placed]

    def options(self) -> dict:
        """What an edit is told of the place."""
        parameters = self._panel.parameters
        result = {"nearest": parameters.nearest}
        if self.finds():
            result["to"] = "auto"
        elif self.position() is not None:
            result["to"] = self.position()
        if self._inside.chosen():
            result["inside"] = self._inside.chosen()
        return result

    def close(self) -> None:
        self.stop()
        self.removeObservers()

    # Placing: the button shows the application's place mode, as the button of Slicer's own markups widget does.

    def _observeMode(self) -> None:
        """Hear of the place mode's beginning and end, and of another list that is placed."""
        application = slicer.app.applicationLogic()
        for node, event in (
            (application.GetInteractionNode(), slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent),
            (application.GetSelectionNode(), slicer.vtkMRMLSelectionNode.ActivePlaceNodeIDChangedEvent),
        ):
            if node is not None and not self.hasObserver(node, event, self._showMode):
                self.addObserver(node, event, self._showMode)

    def placing(self) -> bool:
        """Whether a click in a view would place the chosen point."""
        parameters = self._panel.parameters
        point = parameters.point if parameters is not None else None
        interaction = slicer.app.applicationLogic().GetInteractionNode()
        if point is None or interaction is None:
            return False
        return (
            interaction.GetCurrentInteractionMode() == interaction.Place
            and slicer.modules.markups.logic().GetActiveListID() == point.GetID()
        )

    def _showMode(self, *unused) -> None:
        button = self._ui.placeButton
        button.blockSignals(True)
        button.checked = self.placing()
        button.blockSignals(False)

    def _onPlace(self, on: bool) -> None:
        if not on:
            self.stop()
            return
        point = self._panel.parameters.point
        if (
            point is None or len(self._defined(point)) > 1
        ):  # a list that was made for something else stays as it is
            point = self._ui.pointSelector.addNode()
        markups = slicer.modules.markups.logic()
        markups.SetActiveList(point)
        markups.StartPlaceMode(False)
        self._showMode()

    def finds(self) -> bool:
        """Whether a place is found for a new tumour."""
        parameters = self._panel.parameters
        return parameters is not None and parameters.autoPlace and parameters.edit == "insert"

    def stop(self) -> None:
        """Leave place mode, e.g. when the user goes to another module; the point that was there stays."""
        if self.placing():
            interaction = slicer.app.applicationLogic().GetInteractionNode()
            interaction.SetCurrentInteractionMode(interaction.ViewTransform)
        self._showMode()

    def _onPlaced(self, caller, event) -> None:
        """The user has clicked: the new point takes the earlier one's place once the application has done with it."""
        if self.placing():
            self._replace.start()
        self._onPoint(caller, event)

    def _keepNewest(self) -> None:
        self.stop()
        parameters = self._panel.parameters
        if parameters is not None and parameters.point is not None:
            for index in reversed(self._defined(parameters.point)[:-1]):
                parameters.point.RemoveNthControlPoint(index)

    def _onPoint(self, caller, event) -> None:
        self._showPosition()
        self._panel.requestChanged()

    def _showPosition(self) -> None:
        position = self.position()
        if position is None:
            self._ui.positionLabel.text = _("No point yet.")
            return
        r, a, s = (panel_text.number(round(v, 1)) for v in position)
        self._ui.positionLabel.text = _("R {r}, A {a}, S {s} mm").format(r=r, a=a, s=s)
