"""The checks before an edit, cheapest first, and the region of the image that the model sees."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from TumorSynthLib import provenance, suitability
from TumorSynthLib.errors import InputError
from TumorSynthLib.job import Clock, Job, Progress
from TumorSynthLib.models import Bundle
from TumorSynthLib.painted import parts
from TumorSynthLib.placement import grown
from TumorSynthLib.region import Region
from TumorSynthLib.requests import EditRequest, split, storable
from TumorSynthLib.shaping import check_room
from TumorSynthLib.volume import Volume, check_image, check_mask


def open_job(bundle: Bundle, volume: Volume, request: EditRequest, progress: Progress | None) -> Job:
    """Check all that needs no mask."""
    if len(bundle.regions) > 1 and bundle.painted is None:
        raise InputError(
            f"model {bundle.id!r} paints several regions, which can be measured, synthesized and removed: "
            "use a model with one region for other edits"
        )
    if request.region is not None:
        bundle.region(request.region)
    clock, report = Clock(), progress or (lambda stage, fraction: None)
    report("prepare", 0.0)
    with clock.stage("prepare"):
        check_image(volume)
        texture, shape = split(request.features)
        storable(texture, volume.array.dtype)
        check_room(shape, tuple(n * s for n, s in zip(volume.size, volume.spacing)))
        modality, warnings = suitability.modality_of(bundle, request.modality, volume)
        settings = bundle.settings(modality)
    return Job(volume, request, modality, settings, warnings, report, clock)


def prepared(
    bundle: Bundle,
    volume: Volume,
    mask: np.ndarray,
    request: EditRequest,
    progress: Progress | None,
    grow: float = 0.0,
) -> Job:
    """Check everything that can be checked, cheapest first, and cut out the region of the mask, grown by mm."""
    job = open_job(bundle, volume, request, progress)
    with job.clock.stage("prepare"):
        own, job.others = parts(bundle, mask, request.region)
        mask = grown(check_mask(own, volume), volume.spacing, grow)
        job = around(bundle, job, mask)
        return replace(job, origin=hashed(volume, mask))


def around(bundle: Bundle, job: Job, mask: np.ndarray) -> Job:
    """The edit in a mask, after the checks that need it."""
    warnings = suitability.check_fit(job.volume, mask, bundle)
    job.warn(*warnings)
    return replace(job, mask=mask, region=region_of(bundle, job.volume, mask, job.request))


def hashed(volume: Volume, mask: np.ndarray) -> Future:
    """Fingerprint of the input, made beside the network: hashing a large image takes as long as a small edit."""
    hashing = ThreadPoolExecutor(1)
    origin = hashing.submit(provenance.fingerprint, volume, mask)
    hashing.shutdown(wait=False)
    return origin


def region_of(bundle: Bundle, volume: Volume, mask: np.ndarray, request: EditRequest) -> Region:
    """The window of the model's grid around a mask."""
    from TumorSynthLib.texture.network import MULTIPLE

    margin = float(bundle.json["margin_mm"])
    return Region.around(volume, mask, bundle.spacing, margin, MULTIPLE, window=request.window)


def in_hounsfield(bundle: Bundle, job: Job) -> bool:
    """Whether the intensities of a job's image are HU."""
    return suitability.is_ct(job.modality, bundle.json["intensity"][job.modality])
