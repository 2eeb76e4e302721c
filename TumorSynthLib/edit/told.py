"""What made an edit's voxels, and where some may have changed: sentences from its record. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: What was done to the tissue, by the last stage that was needed.
STAGES = {
    "own": ", as it was",
    "level kept": ", its pattern adjusted and its mean intensity kept",
    "level free": ", its pattern and its mean intensity adjusted",
    "voxels": ", its pattern adjusted and single voxels changed",
}


def made(entry: Mapping[str, Any]) -> list[str]:
    """Engine and stage, then the voxels outside the tumour; nothing of what an older record doesn't tell."""
    plan = entry.get("plan") or {}
    tissue, engine = _tissue(entry, plan), plan.get("engine")
    first = {
        "bridge": "Drawn by the model's network (engine bridge).",
        "exemplar": f"Made of {tissue}{STAGES.get(plan.get('stage', ''), '')} (engine exemplar).",
    }
    return [text for text in (first.get(engine or "", ""), _around(entry, plan)) if text]


def _tissue(entry: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    if entry.get("operation") == "remove":
        return "the image's own tissue"
    if entry.get("operation") == "insert":
        return "the donor's tumour" if plan.get("lender") == "donor" else "a real tumour of the model's bank"
    if (entry.get("request") or {}).get("donor"):
        return "a part of the donor's tissue" if plan.get("stage") == "part" else "the donor's tissue"
    return "the tumour's own tissue"


def _around(entry: Mapping[str, Any], plan: Mapping[str, Any]) -> str:
    voxels, reach = plan.get("zone_voxels"), plan.get("reach_mm")
    both = entry.get("operation") in ("move", "reshape")
    where = "the old and the new mask" if both else "the mask"
    if voxels is None:
        return ""
    if not voxels:
        return f"Outside {where} no voxel changed."
    far = "" if reach is None else f", up to {reach:g} mm from {'them' if both else 'it'}"
    return f"Outside {where} {voxels:,} voxels could change{far}."
