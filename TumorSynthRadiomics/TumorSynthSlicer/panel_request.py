"""What the user asks of each feature: keep it as measured, leave it free, or set it. Plain data, no widgets."""

import json
import math

from slicer.i18n import tr as _

KEEP, FREE, SET = "keep", "free", "set"

#: Features that stay as measured until the user decides otherwise, so that a first edit changes one thing only: a tumour
#: gets another texture at the same brightness, or another volume with the same form.
KEPT = ("mean_intensity", "volume_ml", "sphericity", "elongation", "flatness")


def modes() -> dict:
    """Mode to its name."""
    return {KEEP: _("Keep"), FREE: _("Free"), SET: _("Set")}


class Request:
    """Mode and value by feature key (`FeatureRow.key`), as text in the scene."""

    def __init__(self, text: str = "{}"):
        self._asked = {}
        try:
            for key, (mode, value) in json.loads(text).items():
                if mode in (KEEP, FREE, SET) and math.isfinite(float(value)):
                    self._asked[key] = (mode, float(value))
        except (ValueError, TypeError, AttributeError):
            self._asked = {}  # a scene from elsewhere: begin afresh

    def text(self) -> str:
        return json.dumps(self._asked, sort_keys=True)

    def mode(self, key: str) -> str:
        return self._asked.get(key, (KEEP if key in KEPT else FREE, 0.0))[0]

    def value(self, key: str):
        """The value that is set, or None."""
        mode, value = self._asked.get(key, (FREE, None))
        return value if mode == SET else None

    def ask(self, key: str, mode: str, value: float = 0.0) -> None:
        self._asked[key] = (mode, float(value))

    def replace(self, asked) -> None:
        self._asked = dict(asked)

    def features(self, rows, measured) -> dict:
        """{key: value} for the logic. `measured`: values by pyradiomics' names; what isn't measured can't be kept."""
        result = {}
        for row in rows:
            mode = self.mode(row.key)
            if mode == SET:
                result[row.key] = self.value(row.key)
            elif mode == KEEP and row.name in measured:
                result[row.key] = measured[row.name] / row.factor
        return result

    def changes(self, rows) -> bool:
        """True where something is set, and not only kept."""
        return any(self.mode(row.key) == SET for row in rows)


def presets(kind: str) -> list:
    """(id, name) of the presets for "texture" or "shape"."""
    common = [("keep", _("As measured")), ("typical", _("Typical of the model's tumours"))]
    if kind == "shape":
        return [
            *common,
            ("half", _("Half the volume")),
            ("double", _("Twice the volume")),
            ("round", _("Rounder")),
            ("lobed", _("More irregular")),
        ]
    return [
        ("free", _("All free")),
        *common,
        ("smooth", _("More uniform")),
        ("rough", _("More heterogeneous")),
    ]


#: Preset: {feature key: (factor on the tumour's own value, percentile of the model's tumours where there is no tumour)}.
TARGETS = {
    "smooth": {"contrast": (0.5, 5), "intensity_sd": (0.75, 25)},
    "rough": {"contrast": (2.0, 95), "intensity_sd": (1.33, 75)},
    "round": {"sphericity": (1.15, 95)},
    "lobed": {"sphericity": (0.85, 5)},
    "half": {"volume_ml": (0.5, 25)},
    "double": {"volume_ml": (2.0, 75)},
}
HIGHEST = {"sphericity": 1.0}


def preset(name: str, rows, measured) -> dict:
    """{key: (mode, value)} of a preset, relative to this tumour. What it needs and isn't known is left as it is at first."""
    if name == "free":
        return {row.key: (FREE, 0.0) for row in rows}
    if name == "keep":
        return {row.key: (KEEP, 0.0) for row in rows if row.role == "driver"}
    if name == "typical":
        return {r.key: (SET, r.percentiles[50]) for r in rows if r.role == "driver" and 50 in r.percentiles}
    result = {}
    for row in rows:
        factor, percentile = TARGETS.get(name, {}).get(row.key, (None, None))
        if factor is not None and row.name in measured:
            value = factor * measured[row.name] / row.factor
            result[row.key] = (SET, min(value, HIGHEST.get(row.key, value)))
        elif percentile in row.percentiles:
            result[row.key] = (SET, row.percentiles[percentile])
    return result


class Scale:
    """Maps a feature's values to 0…1, logarithmically where they run over more than one and a half decades.

    :param row: the `FeatureRow`. :param others: values that must fit too, e.g. the measured one.
    """

    def __init__(self, row, others=()):
        known = [row.low, row.high, *row.percentiles.values(), *others]
        values = [float(v) for v in known if v is not None and math.isfinite(v)]
        self.low, self.high = (min(values), max(values)) if values else (0.0, 1.0)
        if self.high <= self.low:
            spread = abs(self.low) or 1.0
            self.low, self.high = self.low - 0.5 * spread, self.high + 0.5 * spread
        self.log = self.low > 0 and self.high / self.low > 30

    def fraction(self, value: float) -> float:
        """0…1, at the ends for values beyond them."""
        low, high, at = self._bent(self.low), self._bent(self.high), self._bent(value)
        return min(1.0, max(0.0, (at - low) / (high - low)))

    def value(self, fraction: float) -> float:
        low, high = self._bent(self.low), self._bent(self.high)
        bent = low + fraction * (high - low)
        return math.exp(bent) if self.log else bent

    def _bent(self, value: float) -> float:
        return math.log(max(value, self.low * 1e-3)) if self.log else value
