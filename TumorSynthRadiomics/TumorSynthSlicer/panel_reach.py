"""Part of section 2: how far the tumour's own tissue can take each feature, found while nothing else runs."""

import logging

from slicer.i18n import tr as _

from TumorSynthSlicer import panel_text

DELAY = 250  # ms without a change before the search begins, which keeps the worker busy


class Reach:
    """The range of each slider of a texture, of the tumour and volume as they are now.

    :param panel: the `Panel`. :param onFound: called when another range is known.
    """

    def __init__(self, panel, onFound):
        self._panel, self._onFound = panel, onFound
        self._found, self._stamp, self._search, self._failed = {}, None, 0, None
        self._asking = False
        self._timer = panel.timer(DELAY, self._ask)

    def update(self) -> None:
        """Forget what another tumour could, and go on soon with what isn't known."""
        stamp = self._panel.tumour.measuredStamp()
        if stamp != self._stamp:
            self._found, self._stamp, self._asking = {}, stamp, False
        if self._wanted() and not self._asking:
            self._timer.start()

    def range(self, key: str):
        """(low, high) in the feature's unit; None where it isn't known, or where the tumour's tissue isn't kept."""
        return self._found.get(key) if self._applies() else None

    def _applies(self) -> bool:
        p, edit = self._panel.parameters, self._panel.editSection.edit
        if p is None or self._stamp is None:
            return False
        return edit == "series" or (edit == "retexture" and not p.useDonor and p.keepPattern > 0)

    def _wanted(self) -> list:
        """Keys still to be found, those that are asked for first."""
        panel = self._panel
        if not panel.active or panel.job is not None or not self._applies() or self._failed == self._stamp:
            return []
        rows = [row for row in panel.rows() if row.kind == "texture" and row.key not in self._found]
        if panel.editSection.edit == "series":
            return [row.key for row in rows if row.key == panel.parameters.seriesFeature]
        asked = panel.editSection.features.settings()
        first = [row.key for row in rows if row.key in asked]
        return first + [row.key for row in rows if row.role == "driver" and row.key not in first]

    def _ask(self) -> None:
        wanted = self._wanted()
        if not wanted:
            return
        p, stamp = self._panel.parameters, self._stamp
        self._search += 1
        this = self._search
        self._asking = True
        calls = {
            "onRange": lambda key, low, high: self._onRange(stamp, key, low, high),
            "onEnd": lambda whole: self._onEnd(this, stamp, whole),
        }
        options = self._panel.tumour.regions.options()
        try:
            self._panel.logic.reachable(
                p.inputVolume, p.segmentation, p.segmentID, p.modelID, wanted, **calls, **options
            )
        except Exception as error:
            logging.debug("no ranges: %s", error)
            self._asking, self._failed = False, stamp

    def _onRange(self, stamp, key: str, low: float, high: float) -> None:
        if stamp == self._stamp and not self._panel.closed:
            self._found[key] = (low, high)
            self._onFound()

    def _onEnd(self, search: int, stamp, whole: bool) -> None:
        if search != self._search or self._panel.closed:
            return
        self._asking = False
        if whole and self._wanted():
            self._failed = stamp  # it ended by itself and left some out: no second attempt
        elif self._wanted():
            self._timer.start()

    # In words

    def text(self, row) -> str:
        """What the tumour's own tissue allows, a sentence; empty where it isn't known."""
        found = self.range(row.key)
        if found is None:
            return ""
        low, high = (panel_text.number(float(f"{value:.3g}")) for value in found)
        unit = f" {row.unit}" if row.unit else ""
        return _("Its own tissue allows {low} to {high}{unit}.").format(low=low, high=high, unit=unit)

    def beyond(self, row, value) -> bool:
        """Whether a value lies outside of what the tissue allows."""
        found = self.range(row.key)
        if found is None or value is None:
            return False
        slack = 0.02 * (found[1] - found[0])
        return not found[0] - slack <= value <= found[1] + slack

    def warnings(self, asked) -> list:
        """What has to be said of a request {key: values} before it is run."""
        lines = []
        for row in self._panel.rows():
            if any(self.beyond(row, value) for value in asked.get(row.key, ())):
                lines.append(
                    row.label
                    + ": "
                    + self.text(row)
                    + " "
                    + _("It is taken there, or somewhat further by single voxels.")
                )
        if lines and self._panel.editSection.edit == "retexture" and self._panel.draws():
            lines.append(
                _("Where the tumour's own pattern isn't kept (0 %), it is drawn anew without this limit.")
            )
        return lines
