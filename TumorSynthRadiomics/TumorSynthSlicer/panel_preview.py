"""The surface of the shape that is asked for, in the views, while the sliders move."""

import logging

import slicer

from TumorSynthSlicer.panel_widgets import segmentExists

DELAY = 10  # ms in which several changes become one


class Preview:
    """A model node that follows the shape features, for the edits that make a shape.

    :param panel: the `Panel`.
    """

    def __init__(self, panel):
        self._panel, self._node = panel, None
        self._timer = panel.timer(DELAY, self._show)

    def update(self) -> None:
        """What is asked has changed."""
        if not self._wanted():
            self.hide()
        elif not self._timer.active:  # a slider that keeps moving must not put it off
            self._timer.start()

    def _wanted(self) -> bool:
        p, section = self._panel.parameters, self._panel.editSection
        if (
            not self._panel.active
            or p is None
            or not p.preview
            or not p.modelID
            or self._panel.job is not None
        ):
            return False
        if section.edit == "reshape":
            return segmentExists(p.segmentation, p.segmentID) and section.features.changes()
        return section.edit == "insert" and section.place.position() is not None

    def _centre(self):
        """World RAS mm where the shape is shown."""
        p, section = self._panel.parameters, self._panel.editSection
        if section.edit == "insert":
            return section.place.position()
        return tuple(p.segmentation.GetSegmentCenterRAS(p.segmentID))

    def _show(self) -> None:
        if not self._wanted():
            return
        p = self._panel.parameters
        shape = {row.key for row in self._panel.rows() if row.kind == "shape"}
        asked = {
            key: value for key, value in self._panel.editSection.features.asked().items() if key in shape
        }
        calls = {"onDone": self._onDone, "onError": self._onError}
        try:
            self._panel.logic.previewShape(p.modelID, asked, p.seed, self._centre(), self._node, **calls)
        except Exception as error:
            self._onError(str(error))

    def _onDone(self, node) -> None:
        self._node = node
        if not self._wanted():  # no longer
            self.hide()

    def _onError(self, message: str) -> None:
        logging.debug("no preview of the shape: %s", message)  # Generate says what is wrong with the request
        self.hide()

    def hide(self) -> None:
        """Remove the preview."""
        self._timer.stop()
        if self._node is not None and self._node.GetScene() is not None:
            slicer.mrmlScene.RemoveNode(self._node)
        self._node = None
