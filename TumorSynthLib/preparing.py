"""The checks before an edit, cheapest first, and the region of the image that the model sees."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from TumorSynthLib import provenance, suitability
from TumorSynthLib.edit.features import split, storable
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.errors import InputError
from TumorSynthLib.job import Clock, Job, Progress
from TumorSynthLib.models import Bundle
from TumorSynthLib.painted import parts
from TumorSynthLib.placement import grown
from TumorSynthLib.region import Region
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
    copy: bool = False,
) -> Job:
    """Check everything that can be checked, cheapest first, and cut out the region of the mask, grown by mm.

    :param copy: begin to copy the image, where the edit is pasted into it as it is.
    """
    job = open_job(bundle, volume, request, progress)
    with job.clock.stage("prepare"):
        own, job.others = parts(bundle, mask, request.region)
        own = check_mask(own, volume)
        if copy:
            job.origin, job.copy = hashed_and_copied(volume, own)
        else:
            job.origin = hashed(volume, own)
        return around(bundle, job, grown(own, volume.spacing, grow))


def around(bundle: Bundle, job: Job, mask: np.ndarray) -> Job:
    """The edit in a mask, after the checks that need it."""
    warnings = suitability.check_fit(job.volume, mask, bundle)
    job.warn(*warnings)
    region = region_of(bundle, job.volume, mask, job.request)
    suitability.check_extent(region.mask, job.settings.minimumROIDimensions)
    return replace(job, mask=mask, region=region)


def hashed(volume: Volume, mask: np.ndarray) -> Future:
    """Fingerprint of the input, made beside the network: hashing a large image takes as long as a small edit."""
    return _beside((provenance.fingerprint, volume, mask))[0]


def hashed_and_copied(volume: Volume, mask: np.ndarray) -> tuple[Future, Future]:
    """Fingerprint of the input, and a copy of its voxels, which takes as long again."""
    copy = np.empty(volume.array.shape, volume.array.dtype)  # a thread would get new memory, slowly

    def fill() -> np.ndarray:
        np.copyto(copy, volume.array)
        return copy

    return _beside((provenance.fingerprint, volume, mask), (fill,))


def _beside(*work: tuple) -> tuple[Future, ...]:
    """Functions with their arguments, done one after the other in a thread: two threads would hold up the network."""
    thread = ThreadPoolExecutor(1)
    futures = tuple(thread.submit(*one) for one in work)
    thread.shutdown(wait=False)
    return futures


def region_of(bundle: Bundle, volume: Volume, mask: np.ndarray, request: EditRequest) -> Region:
    """The window of the model's grid around a mask."""
    from TumorSynthLib.texture.network import MULTIPLE

    margin = float(bundle.json["margin_mm"])
    return Region.around(volume, mask, bundle.spacing, margin, MULTIPLE, window=request.window)


def in_hounsfield(bundle: Bundle, job: Job) -> bool:
    """Whether the intensities of a job's image are HU."""
    return suitability.is_ct(job.modality, bundle.json["intensity"][job.modality])
