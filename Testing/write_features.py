"""Write Resources/Docs/features.md from the feature table: `python Testing/write_features.py`."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "Resources" / "Docs" / "features.md"

TITLES = {
    "shape": ("Shape", "Asked for under *Shape* and *Insert*."),
    "firstorder": ("Intensity (first order)", "Asked for under *Texture* and *Insert*."),
    "glcm": ("Neighbouring grey levels (GLCM)", "Asked for under *Texture* and *Insert*."),
    "glrlm": ("Lines of equal grey level (GLRLM)", "Asked for under *Texture* and *Insert*."),
    "glszm": ("Zones of equal grey level (GLSZM)", "Asked for under *Texture* and *Insert*."),
    "gldm": ("Like neighbours (GLDM)", "Measured only."),
    "ngtdm": ("Neighbourhood differences (NGTDM)", "Measured only."),
}
SIZES = {"free": "no", "grows": "grows", "shrinks": "shrinks"}

INTRODUCTION = """# The features

Written by `python Testing/write_features.py` from the feature table, which also gives the panel its tooltips. Names and
definitions are those of pyradiomics; `tumorsynth models params ID` writes the parameter file with which pyradiomics
measures the same values.

- *Slider* is the name of a main feature, in the panel and for `--set`; the others are in the panel's list *More features*.
- *Unit*: *intensity* is HU in CT and grey values in MR; *level* counts the bins of intensities (elsewhere it is shown
  without a unit); 1 is a plain number.
- *Size* says whether the feature changes with the tumour's size alone. Such features are not taken from a donor of another
  size.
"""


def page() -> str:
    """The whole page."""
    from TumorSynthLib.radiomics.table import DRIVERS, FEATURES

    sliders = {name: key for key, (name, _) in DRIVERS.items()}
    parts = [INTRODUCTION]
    for cls, (title, use) in TITLES.items():
        rows = [f for f in FEATURES.values() if f.cls == cls]
        parts.append(f"## {title}\n{use} {len(rows)} features.\n")
        parts.append("| feature | slider | unit | size | meaning |\n|---|---|---|---|---|")
        for f in rows:
            slider = f"`{sliders[f.name]}`" if f.name in sliders else ""
            parts.append(f"| `{f.name}` | {slider} | {f.unit} | {SIZES[f.size]} | {f.meaning} |")
        parts.append("")
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
