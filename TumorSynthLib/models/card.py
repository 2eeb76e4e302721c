"""What a model's card says in words, told from the model's parts."""

from __future__ import annotations

from typing import Any

from .bundle import ANY
from .parts import FORMS

MADE = "turned, mirrored, bent and brought to what is asked"


def memorisation(manifest: dict[str, Any]) -> str:
    """What a bundle holds of patients, by which licence, and what of it an edit may show again."""
    said = []
    tumours = _part(manifest, "bank").get("tumours") or []
    if tumours:
        count = len({str(tumour.get("case")) for tumour in tumours})
        said.append(
            f"The bank holds voxels of {count} real tumours of training patients ({_licences(tumours)}), 8 bit and cut "
            "out of their scans: an inserted tumour may show one of them again."
        )
    shape, training = _part(manifest, "shape"), _part(manifest, "training")
    if FORMS in manifest["files"]:
        count, data = _part(shape, "forms").get("tumours", "some"), _part(shape, "training").get("data")
        said.append(
            f"It holds the masks of {count} real tumours of training patients ({_licences(data)}): a new shape is one "
            f"of them, {MADE}, and may resemble it."
        )
    elif not shape and manifest["organ"] == ANY:
        said.append(
            "A new shape is the mask of a real tumour that a model beside it holds (lung-nodule-ct, soft-tissue-sarcoma), "
            f"{MADE}, and may resemble it."
        )
    whole = _part(manifest, "population").values()
    entries = [
        e for m in whole for e in (m, *m.values()) if isinstance(e, dict) and "cases" in e
    ]  # or of regions
    if entries:
        count = len({case for entry in entries for case in entry["cases"]})
        said.append(f"The population holds radiomics features of {count} tumours by public case numbers.")
    if manifest.get("network") is None and not shape.get("network"):
        said.append("No network was trained.")
    elif training.get("patients"):
        said.append(
            f"The network was trained on tumours of {training['patients']} patients ({training.get('licence', '')}): what "
            "it draws may come near one of theirs."
        )
    return " ".join(said)


def _part(manifest: dict[str, Any], key: str) -> dict[str, Any]:
    """An object of a manifest; empty where it is missing or something else."""
    value = manifest.get(key)
    return value if isinstance(value, dict) else {}


def _licences(entries: Any) -> str:
    """Of the data sets or tumours of a list."""
    listed = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return ", ".join(sorted({str(e["licence"]) for e in listed if e.get("licence")})) or "licence not stated"
