"""One tumour in one image, checked cheapest first, before anything is decided or drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from TumorSynthLib import provenance, suitability
from TumorSynthLib.edit.features import split, storable
from TumorSynthLib.edit.options import EditRequest
from TumorSynthLib.edit.progress import Progress
from TumorSynthLib.errors import InputError
from TumorSynthLib.models.bundle import Bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.painted import parts
from TumorSynthLib.radiomics.extract import TEXTURE_CLASSES, extract, extract_image
from TumorSynthLib.radiomics.population import Population
from TumorSynthLib.radiomics.settings import Settings
from TumorSynthLib.region import Region
from TumorSynthLib.shaping import check_room
from TumorSynthLib.volume import Volume, check_image, check_mask


@dataclass(frozen=True, eq=False)
class Case:
    """A checked image and the tumour in it.

    :param mask: (K, J, I) bool, the tumour; None where a new one is put into healthy tissue.
    :param bundle: the model; None works on the image's own grid.
    :param ct: intensities are Hounsfield units.
    :param settings: of the extraction. :param population: features of the model's training tumours.
    :param others: masks (K, J, I) of the model's other regions by name, which stay as they are.
    :param origin: the fingerprint of the input, and `copy` a copy of the image's whole array, both under way in threads.
    :param before: the image before the old tumour was cleared and tissue moved; None where that is `volume`.
    :param cleared: the image without the old tumour, before tissue moved; `gone` (K, J, I) bool: what changed for it.
    """

    volume: Volume
    mask: np.ndarray | None
    bundle: Bundle | None
    modality: str
    ct: bool
    settings: Settings
    population: Population | None = None
    others: Mapping[str, np.ndarray] = field(default_factory=dict)
    window: tuple[slice, ...] | None = None
    origin: Future | None = None
    copy: Future | None = None
    before: Volume | None = None
    cleared: Volume | None = None
    gone: np.ndarray | None = None
    warnings: tuple[str, ...] = ()

    def region(self, mask: np.ndarray) -> Region:
        """The window of the model's grid around a mask (K, J, I), or of the image's own grid."""
        if self.bundle is None:
            return Region.around(self.volume, mask, window=self.window)
        margin, multiple = float(self.bundle.json["margin_mm"]), self.bundle.grid_multiple
        return Region.around(self.volume, mask, self.bundle.spacing, margin, multiple, window=self.window)

    def region_in(self, volume: Volume, mask: np.ndarray) -> Region:
        """The window around a mask (K, J, I) of another image, on the same model's grid."""
        return replace(self, volume=volume, window=None).region(mask)

    @cached_property
    def source(self) -> Region:
        """The window around the tumour."""
        assert self.mask is not None
        return self.region(self.mask)

    @cached_property
    def own(self) -> dict[str, float]:
        """The tumour's features, but for those of shape."""
        return self.measure(self.mask, self.source)

    def measure(
        self, mask: np.ndarray, region: Region | None = None, classes: Iterable[str] | None = TEXTURE_CLASSES
    ) -> dict[str, float]:
        """Exact features of a mask (K, J, I) in the image."""
        if self.bundle is None and (
            self.settings.resampledPixelSpacing is not None or self.settings.normalize
        ):
            return extract_image(self.volume, mask, self.settings, classes)
        region = region or self.region(mask)
        return measured(region, region.native, self.settings, classes)

    def spread(self) -> dict[str, float]:
        """Standard deviation of each feature in the model's population."""
        found = self.population
        return {name: float(s) for name, s in zip(found.names, found.std)} if found else {}

    def in_image(self, volume: Volume, gone: np.ndarray | None = None) -> Case:
        """The same tumour's case in an image that was cleared for the new one.

        :param gone: (K, J, I) bool, the voxels that the clearing changed; None where tissue moved, or nothing is told.
        """
        cleared: dict = {} if gone is None else {"cleared": volume, "gone": gone}
        return replace(self, volume=volume, before=self.before or self.volume, copy=None, **cleared)


def measured(
    region: Region,
    native: np.ndarray,
    settings: Settings,
    classes: Iterable[str] | None,
    warn: Callable[[str], None] | None = None,
) -> dict[str, float]:
    """Exact features of a native box, as an extraction of the stored file finds them; `warn`: see `extract`."""
    values = region.measure(native, as_stored=True)
    dtype = region.volume.array.dtype
    values = values.astype(np.int64 if np.issubdtype(dtype, np.integer) else np.float64)
    return extract(values, region.mask, region.spacing, settings, classes, warn)


def open_case(
    bundle: Bundle | None,
    volume: Volume,
    mask: np.ndarray | None,
    request: EditRequest,
    progress: Progress,
    *,
    settings: Settings | None = None,
    population: Population | None = None,
    copy: bool = False,
) -> Case:
    """Check all that an edit of any kind needs.

    :param mask: (K, J, I), a labelmap where the model has several regions; None without a tumour.
    :param settings: of the extraction without a model; None is pyradiomics' defaults.
    :param copy: begin to copy the image, where the edit is pasted into it as it is.
    :raises InputError: with the reason.
    """
    if bundle is not None:
        _check_regions(bundle, request)
    progress("prepare", 0.0)
    with progress.stage("prepare"):
        check_image(volume)
        texture, shape = split(request.features)
        storable(texture, volume.array.dtype)
        check_room(shape, tuple(n * s for n, s in zip(volume.size, volume.spacing)))
        if bundle is None:
            modality, warnings = suitability.modality_without_model(volume, request.modality)
            settings = settings or Settings()
        else:
            modality, warnings = suitability.modality_of(bundle, request.modality, volume)
            bundle = suitability.at_scale(bundle, volume, modality)
            settings = bundle.settings(modality)
        ct = Intensity.of(volume.array, modality, bundle).is_ct
        case = Case(
            volume,
            None,
            bundle,
            modality,
            ct,
            settings,
            population,
            window=request.window,
            warnings=tuple(warnings),
        )
        if mask is None:
            return replace(case, origin=_hashed(volume, np.zeros(volume.array.shape, bool)))
        own, others = (mask, {}) if bundle is None else parts(bundle, mask, request.region)
        own = check_mask(own, volume)
        origin, copied = _hashed_and_copied(volume, own) if copy else (_hashed(volume, own), None)
        return replace(case, mask=own, others=others, origin=origin, copy=copied)


def _check_regions(bundle: Bundle, request: EditRequest) -> None:
    if len(bundle.regions) > 1 and bundle.painted is None:
        raise InputError(
            f"model {bundle.id!r} paints several regions, which can be measured, synthesized and removed: "
            "use a model with one region for other edits"
        )
    if request.region is not None:
        bundle.region(request.region)


def check_fit(case: Case, mask: np.ndarray) -> tuple[str, ...]:
    """Warnings of a mask (K, J, I) that a model's network is to fill.

    :raises InputError: it can't be.
    """
    warnings = suitability.check_fit(case.volume, mask, case.bundle)
    region = case.source if mask is case.mask else case.region(mask)
    suitability.check_extent(region.mask, case.settings.minimumROIDimensions)
    return tuple(warnings)


def _hashed(volume: Volume, mask: np.ndarray) -> Future:
    """Fingerprint of the input, made beside the drawing: hashing a large image takes as long as a small edit."""
    return _beside((provenance.fingerprint, volume, mask))[0]


def _hashed_and_copied(volume: Volume, mask: np.ndarray) -> tuple[Future, Future]:
    """Fingerprint of the input, and a copy of its voxels, which takes as long again."""
    copy = np.empty(volume.array.shape, volume.array.dtype)  # a thread would get new memory, slowly

    def fill() -> np.ndarray:
        np.copyto(copy, volume.array)
        return copy

    hashed, copied = _beside((provenance.fingerprint, volume, mask), (fill,))
    return hashed, copied


def _beside(*work: tuple) -> tuple[Future, ...]:
    """Functions with their arguments, done one after the other in a thread: two threads would hold up the network."""
    thread = ThreadPoolExecutor(1)
    futures = tuple(thread.submit(*one) for one in work)
    thread.shutdown(wait=False)
    return futures
