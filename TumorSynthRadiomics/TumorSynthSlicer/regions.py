"""Tumours of several regions, such as a core and its rim: each is a segment of its own, and one of them is edited at a time."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from slicer.i18n import tr as _

from TumorSynthLib.errors import InputError

from . import nodes
from .rows import NO_MODEL

#: What can be done with a model of several regions: its shapes are those of single ones.
EDITS = ("measure", "remove", "synthesize", "retexture")


def namesOf(bundle) -> tuple[str, ...]:
    """The regions of a model, where it has several; else none."""
    several = bundle is not None and len(bundle.regions) > 1
    return tuple(region.name for region in bundle.regions) if several else ()


def assigned(bundle, segmentationNode, chosen: Mapping[str, str] | None = None) -> dict[str, str]:
    """{region: segment ID}, as chosen, the others by the segments' names; regions without a segment are left out.

    :raises InputError: a region or segment that isn't there, or a segment that is two regions.
    """
    chosen, names = dict(chosen or {}), namesOf(bundle)
    for name, segment in chosen.items():
        if name not in names:
            text = _("model {model} has no region {name}: it has {known}")
            known = ", ".join(names) or _("only one")
            raise InputError(text.format(model=bundle.id, name=name, known=known))
        if segment:
            chosen[name] = nodes.segmentID(segmentationNode, segment)
    taken = [segment for segment in chosen.values() if segment]
    if len(set(taken)) < len(taken):
        raise InputError(_("one segment is said to be two regions: choose another one for each region"))
    for name in names:
        if name not in chosen:
            chosen[name] = _byName(segmentationNode, name, taken)
            taken.append(chosen[name])
    return {name: chosen[name] for name in names if chosen[name]}


def _byName(segmentationNode, region: str, taken: list[str]) -> str:
    """ID of the first segment with the region's name in its own; empty if there is none."""
    segmentation = segmentationNode.GetSegmentation()
    for segment in segmentation.GetSegmentIDs():
        if segment not in taken and region.lower() in segmentation.GetSegment(segment).GetName().lower():
            return segment
    return ""


def assign(given, bundle) -> None:
    """Complete an `edits.Input` for its model: which region is edited, and where the others are.

    :raises InputError: the segment is none of the model's regions, or two segments overlap.
    """
    chosen, whole = given.options.get("regions"), given.options.get("whole")
    if not namesOf(bundle):
        if chosen or whole:
            text = _("model {model} has one region only: leave out the options regions and whole")
            raise InputError(text.format(model=bundle.id if bundle is not None else NO_MODEL))
        return
    there = assigned(bundle, given.segmentationNode, chosen)
    own = next((name for name, segment in there.items() if segment == given.segmentID), None)
    if own is None:
        text = _("say which region of model {model} the segment {segment} is: {known}")
        segment = given.segmentationNode.GetSegmentation().GetSegment(given.segmentID).GetName()
        raise InputError(text.format(model=bundle.id, segment=segment, known=", ".join(namesOf(bundle))))
    given.region = "" if whole else own
    if given.edit == "measure":
        return
    labels = {region.name: region.label for region in bundle.regions}
    masks = {name: _mask(given, segment) for name, segment in there.items()}
    given.labels = _labelmap({labels[name]: mask for name, mask in masks.items()}, given)
    if whole:
        given.mask = nodes.Mask(given.labels.box, given.labels.array > 0)


def _mask(given, segment: str) -> nodes.Mask:
    return (
        given.mask
        if segment == given.segmentID
        else nodes.maskOf(given.segmentationNode, segment, given.volumeNode)
    )


def _labelmap(masks: Mapping[int, nodes.Mask], given) -> nodes.Mask:
    """Labels in the box that holds all masks."""
    starts, stops = ([[getattr(s, end) for s in m.box] for m in masks.values()] for end in ("start", "stop"))
    box = tuple(slice(min(a), max(b)) for a, b in zip(zip(*starts), zip(*stops)))
    array = np.zeros([s.stop - s.start for s in box], np.uint8)
    for label, mask in masks.items():
        part = array[tuple(slice(m.start - b.start, m.stop - b.start) for m, b in zip(mask.box, box))]
        if part[mask.array].any():
            text = _(
                "segments of {name} overlap: take one away from the other (Segment Editor, Logical operators)"
            )
            raise InputError(text.format(name=given.segmentationNode.GetName()))
        part[mask.array] = label
    return nodes.Mask(box, array)
