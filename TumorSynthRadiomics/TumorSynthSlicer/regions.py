"""Tumours of several regions, such as a core and its rim: each is a segment of its own, and one of them is edited at a time."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
from slicer.i18n import tr as _

from TumorSynthLib.edit.options import OPTIONS as ROWS
from TumorSynthLib.errors import InputError

from . import history, nodes
from .rows import NO_MODEL

#: What can be done with a model of several regions: its shapes are those of single ones.
EDITS = ("measure", "remove", "synthesize", "retexture")

NEAR, WIDE = (
    60.0,
    1.0,
)  # mm and widths around a tumour's old and new place: no edit changes, or takes tissue from, anything beyond


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


def keepOthers(given) -> None:
    """Let the other segments of an `edits.Input`'s segmentation stay as they are, as the engine does with a file's other labels.

    What shows where a tumour was, or the tumour of another volume, isn't in this one. Regions of the model stay anyway.
    """
    from TumorSynthLib.edit.regions import others_of  # not at the module's start: it imports SimpleITK
    from TumorSynthLib.volume.masks import Part

    if (
        given.copied
        or given.mask is None
        or given.labels is not None
        or given.edit not in ROWS["avoid"].edits
    ):
        return
    points = [given.mask.box]
    if given.request.to is not None:
        middle = np.rint(given.volume.indices(np.asarray(given.request.to, float))[::-1]).astype(int)
        half = [(s.stop - s.start) // 2 + 1 for s in given.mask.box]
        points.append(tuple(slice(int(m - h), int(m + h)) for m, h in zip(middle, half)))
    if "avoid" in given.masks:  # nothing of it is cut off
        points.append(given.masks["avoid"].box)
    steps = given.volume.spacing[::-1]
    wide = max((s.stop - s.start) * d for s, d in zip(given.mask.box, steps))
    room = [int(np.ceil(max(NEAR, WIDE * wide) / d)) for d in steps]
    shape = given.volume.array.shape
    box = tuple(
        slice(max(0, min(s.start for s in axis) - r), min(n, max(s.stop for s in axis) + r))
        for axis, r, n in zip(zip(*points), room, shape)
    )
    segmentation, parts = given.segmentationNode.GetSegmentation(), []
    for number, segment in enumerate(segmentation.GetSegmentIDs(), 1):
        if segment == given.segmentID or not history.showsTumourOf(
            given.volumeNode, given.segmentationNode, segment
        ):
            continue
        try:
            mask = nodes.maskOf(given.segmentationNode, segment, given.volumeNode)
        except InputError:  # empty, or of another place
            continue
        name = segmentation.GetSegment(segment).GetName()
        parts.append(Part(number, name, partial(mask.within, box), mask.voxels))
    healthy = [given.masks[name].within(box) for name in ("lend", "inside") if name in given.masks]
    ml = float(np.prod(given.volume.spacing)) / 1000
    kept, near, organs = others_of(parts, given.mask.within(box), ml, healthy, given.volume.array[box])
    if "avoid" in given.masks:
        kept |= given.masks["avoid"].within(box)
    if kept.any():
        given.masks["avoid"] = nodes.Mask(box, kept)
    kept = _(
        "{names}, next to the tumour, is left as it is; if it is the tumour's organ, choose it under Take tissue from"
    )
    organ = _(
        "{names} is taken for the tumour's organ, which lends tissue and may change; else, choose Keep away from it"
    )
    for found, text in ((near, kept), (organs, organ)):
        if found:
            given.notes += (text.format(names=", ".join(part.name for part in found)),)


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
