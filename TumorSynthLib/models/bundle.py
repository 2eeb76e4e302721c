"""A bundle on disk: its manifest, and its tensors, which are parsed only after their SHA-256 agrees."""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import struct
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, ModelError
from .manifest import read_manifest
from .names import MANIFEST, check_file_name, is_note

if TYPE_CHECKING:
    from ..radiomics.population import Population
    from ..radiomics.settings import Settings

MAX_HEADER_BYTES = 10 * 2**20  # of a safetensors file; a network of 1,000 tensors has 100 kB
GRID_MULTIPLE = (
    4,
    8,
    8,
)  # voxels (z, y, x) of a working region: codec factor 2, then (1, 2, 2) and (2, 2, 2) between levels
POPULATION_FILE = "population.safetensors"
ANY = "any"  # organ of a model that is for all
SEQUENCES = ("T1", "T2", "PD", "FLAIR", "DWI", "ADC", "SWI")  # of MR: a model for MR takes them all


@dataclass(frozen=True)
class BundleRegion:
    """A region that a model paints, and its label in a labelmap."""

    name: str
    label: int


def regions_of(manifest: dict[str, Any]) -> tuple[BundleRegion, ...]:
    """Regions of a ``bundle.json``; those that it only names have the labels 1, 2 …"""
    return tuple(
        BundleRegion(r, n) if isinstance(r, str) else BundleRegion(r["name"], r["label"])
        for n, r in enumerate(manifest.get("regions") or ["tumour"], 1)
    )


@dataclass(frozen=True)
class Bundle:
    """A model's folder whose manifest has been checked.

    `json` is ``bundle.json``; `sha256` is that of ``bundle.json``, which holds the hashes of all other files
    and so identifies the model; `ignored` names files in the folder that the manifest doesn't list, with the
    reason why they are not used; `painted` is the region that it was opened for (see `painting`), `scale` see `at_scale`.
    """

    folder: Path
    json: dict[str, Any]
    sha256: str
    ignored: dict[str, str] = field(default_factory=dict)
    painted: BundleRegion | None = None
    scale: float = 1.0

    @property
    def id(self) -> str:
        return self.json["id"]

    @property
    def version(self) -> str:
        return self.json["version"]

    @property
    def title(self) -> str:
        return self.json["title"]

    @property
    def organ(self) -> str:
        return self.json["organ"]

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(self.json["modalities"])

    @property
    def regions(self) -> tuple[BundleRegion, ...]:
        """Regions that the model paints one at a time; most have one, the tumour."""
        return regions_of(self.json)

    def region(self, name: str | None) -> BundleRegion:
        """The region of a name; ``None`` means the only one.

        :raises InputError: if the model has no such region, or has several and none was given.
        """
        for region in self.regions:
            if name is None and len(self.regions) == 1:
                return region
            if name is not None and region.name.lower() == name.lower():
                return region
        known = ", ".join(f"{r.name} (label {r.label})" for r in self.regions)
        if name is None:
            raise InputError(
                f"model {self.id!r} paints one region at a time: say which of {known} (--region)"
            )
        raise InputError(f"model {self.id!r} paints {known}, not {name!r}; choose another region or model")

    def painting(self, name: str | None) -> Bundle:
        """This model for one of its regions, whose population is then `population`'s; itself where it has only one."""
        region = self.region(name)
        if len(self.regions) == 1:
            return self
        found = (self.json.get("population") or {}).items()
        population = {modality: entry[region.name] for modality, entry in found if region.name in entry}
        return replace(self, json={**self.json, "population": population}, painted=region)

    def at_scale(self, modality: str, factor: float) -> Bundle:
        """This model for images of a modality whose grey levels are so many times as large as those of its tumours."""
        if factor == 1:
            return self
        settings = {
            **self.json["extraction"][modality],
            "binWidth": factor * self.settings(modality).binWidth,
        }
        changed: dict[str, Any] = {"extraction": {**self.json["extraction"], modality: settings}}
        if self.json.get("bank"):
            from ..radiomics.table import power_of

            tumours = [
                {**t, "features": {n: v * factor ** power_of(n) for n, v in t["features"].items()}}
                for t in self.json["bank"]["tumours"]
            ]
            changed["bank"] = {**self.json["bank"], "tumours": tumours}
        return replace(self, json={**self.json, **changed}, scale=factor)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Working grid (x, y, z) in mm."""
        x, y, z = self.json["spacing_mm"]
        return float(x), float(y), float(z)

    @property
    def grid_multiple(self) -> tuple[int, int, int]:
        """(z, y, x) voxels that the shape of a region for the network is a multiple of."""
        return GRID_MULTIPLE

    @property
    def licence(self) -> str:
        """The weights' licence in one line."""
        return licence_text(self.json["licence"])

    @property
    def bytes(self) -> int:
        """Size of all tensor files."""
        return sum(entry["bytes"] for entry in self.json["files"].values())

    def read(self, file: str) -> bytes:
        """Bytes of a file of the bundle, after its size, SHA-256 and safetensors header have been checked.

        :raises ModelError: if the file is missing or differs from the manifest.
        """
        entry = self.json["files"].get(file)
        if entry is None:
            raise ModelError(
                f"model {self.id!r} has no file {file!r}; it has {', '.join(self.json['files'])}"
            )
        data = _read_regular_file(self.folder / file, entry["bytes"], self.id)
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ModelError(
                _damaged(self.id, self.folder / file, "its SHA-256 differs from the one in bundle.json")
            )
        check_header(data, self.id, self.folder / file)
        check_numbers(data, self.id, self.folder / file)
        return data

    def tensors(self, file: str, framework: str = "numpy") -> dict[str, Any]:
        """Tensors of a safetensors file by name, checked by SHA-256 before they are parsed.

        :param framework: ``numpy`` for numpy arrays, ``torch`` for torch tensors on the CPU (needed for
            bfloat16).
        :raises ModelError: if the file is missing, damaged, or not safetensors.
        """
        data = self.read(file)
        if framework == "torch":
            from safetensors.torch import load
        elif framework == "numpy":
            load = read_arrays
        else:
            raise ValueError(f"framework is {framework!r}, expected 'numpy' or 'torch'")
        try:
            return load(data)
        except (
            Exception
        ) as error:  # safetensors raises its own class, and KeyError for a type that numpy lacks
            raise ModelError(
                _damaged(self.id, self.folder / file, f"it is not valid safetensors: {error}")
            ) from None

    def verify(self) -> None:
        """Check every file against the manifest, and the settings that its features are defined with.

        :raises ModelError: for the first one that is missing or differs.
        """
        for modality in self.modalities:
            self.settings(modality)
        for file in self.json["files"]:
            self.read(file)

    def modality(self, name: str | None) -> str:
        """The bundle's own spelling of a modality; ``None`` means the only one.

        :raises ModelError: if the model wasn't trained for it, or has several and none was given.
        """
        if name is None and len(self.modalities) == 1:
            return self.modalities[0]
        for modality in self.modalities:
            if name is not None and modality.lower() == name.lower():
                return modality
        if name is not None and "MR" in self.modalities and name.upper().startswith(SEQUENCES):
            return "MR"
        known = ", ".join(self.modalities)
        if name is None:
            raise ModelError(
                f"model {self.id!r} works on {known}; say which of them the image is (--modality)"
            )
        raise ModelError(
            f"model {self.id!r} works on {known}, not on {name!r}; choose another model or modality"
        )

    def population(self, modality: str | None = None) -> Population:
        """Radiomics features of the training tumours of one modality."""
        import numpy as np

        from ..radiomics.population import Population

        modality = self.modality(modality)
        if len(self.regions) > 1 and self.painted is None:
            self.region(None)
        if self.json.get("population") and POPULATION_FILE not in self.json["files"]:
            raise ModelError(_damaged(self.id, self.folder / POPULATION_FILE, "bundle.json doesn't list it"))
        entry = (self.json.get("population") or {}).get(modality)
        if entry is None:
            raise ModelError(
                f"model {self.id!r} has no feature population for {modality}; get a newer version of it"
            )
        values = self.tensors(POPULATION_FILE).get(entry["tensor"])
        shape = (len(entry["cases"]), len(entry["names"]))
        if values is None or values.shape != shape or not np.isfinite(values).all():
            found = "missing" if values is None else f"{values.shape}, or not finite"
            raise ModelError(
                _damaged(
                    self.id,
                    self.folder / POPULATION_FILE,
                    f"tensor {entry['tensor']!r} is {found}; bundle.json says {shape}",
                )
            )
        found = Population(tuple(entry["names"]), values.astype(np.float64), tuple(entry["cases"]))
        return found.scaled(self.scale) if self.scale != 1 else found

    def settings(self, modality: str | None = None) -> Settings:
        """pyradiomics settings with which the model's features are defined."""
        from ..radiomics.settings import Settings

        try:
            return Settings.from_dict(self.json["extraction"][self.modality(modality)])
        except InputError as error:
            raise ModelError(f"model {self.id!r} is damaged: its settings can't be used ({error})") from None


def load_bundle(folder: str | Path) -> Bundle:
    """Open a bundle folder: check the manifest, and that each file is there with the right size.

    Contents are hashed when they are read (`Bundle.tensors`), or all at once by `Bundle.verify`.

    :raises ModelError: if the folder is not a bundle, or is damaged or unsafe; the message names the file or
        key.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"{folder} is not a folder; give the folder that holds {MANIFEST}")
    manifest, data = read_manifest(folder)
    for name, entry in manifest["files"].items():
        _check_regular_file(folder / name, entry["bytes"], manifest["id"])
    ignored = _extra_files(folder, manifest)
    return Bundle(folder, manifest, hashlib.sha256(data).hexdigest(), ignored)


def verify_folder(folder: str | Path) -> Bundle:
    """`load_bundle`, then `Bundle.verify`."""
    bundle = load_bundle(folder)
    bundle.verify()
    return bundle


def licence_text(licence: str | dict[str, Any]) -> str:
    """One line for a licence that is a text or an object (`name`, `weights` …)."""
    if isinstance(licence, str):
        return next((line.strip() for line in licence.splitlines() if line.strip()), "")
    for key in ("weights", "name", "id"):
        if isinstance(licence.get(key), str) and licence[key].strip():
            return licence_text(licence[key])
    return ", ".join(f"{key}: {value}" for key, value in licence.items())


def check_header(data: bytes, model: str, path: Path) -> None:
    """Refuse a safetensors file whose header is longer than the file, or than any network needs."""
    length = struct.unpack_from("<Q", data)[0] if len(data) >= 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise ModelError(
            _damaged(model, path, f"its safetensors header claims {length} bytes in a file of {len(data)}")
        )
    if data[8:9] != b"{":
        raise ModelError(_damaged(model, path, "its safetensors header is not JSON"))


#: Types of safetensors that numpy has.
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U64": "<u8",
    "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "?",
}  # fmt: skip


def read_arrays(data: bytes) -> dict[str, Any]:
    """Arrays of a safetensors file whose header has been checked, by name.

    Measuring needs no more than this, so that it works before the package safetensors is installed.

    :raises ValueError, KeyError: the header and the data don't fit together.
    """
    import numpy as np

    start = 8 + struct.unpack_from("<Q", data)[0]
    arrays = {}
    for name, entry in json.loads(data[8:start]).items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        dtype, shape = np.dtype(_TYPES[entry["dtype"]]), [int(n) for n in entry["shape"]]
        if not 0 <= first <= last <= len(data) - start or last - first != dtype.itemsize * math.prod(shape):
            raise ValueError(f"tensor {name!r} doesn't fit the file")
        arrays[name] = np.frombuffer(data, dtype, math.prod(shape), start + first).reshape(shape)
    return arrays


def check_numbers(data: bytes, model: str, path: Path) -> None:
    """Refuse a safetensors file whose header has been checked, with a tensor that holds NaN or infinity: a network with
    such weights draws nothing, and the voxels would become 0.

    :raises ModelError: naming the tensor.
    """
    import numpy as np

    start = 8 + struct.unpack_from("<Q", data)[0]
    try:
        entries = {k: v for k, v in json.loads(data[8:start]).items() if k != "__metadata__"}
        for name, entry in entries.items():
            if entry["dtype"] not in ("F64", "F32", "F16", "BF16"):
                continue
            first, last = (start + int(n) for n in entry["data_offsets"])
            if entry["dtype"] == "BF16":  # numpy has none; all bits of the exponent are set in both
                bits = np.frombuffer(data[first:last], "<u2")
                good = not ((bits & 0x7F80) == 0x7F80).any()
            else:
                good = bool(np.isfinite(np.frombuffer(data[first:last], _TYPES[entry["dtype"]])).all())
            if not good:
                raise ModelError(_damaged(model, path, f"its tensor {name[:60]!r} holds NaN or infinity"))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise ModelError(_damaged(model, path, f"it is not valid safetensors: {str(error)[:60]}")) from None


def _extra_files(folder: Path, manifest: dict[str, Any]) -> dict[str, str]:
    ignored = {}
    for path in sorted(folder.iterdir()):
        name = path.name
        if name in manifest["files"] or name == MANIFEST or (is_note(name) and not path.is_symlink()):
            continue
        if name.startswith("."):
            continue
        if path.is_dir():
            ignored[name] = "a bundle has no sub-folders"
        else:
            check_file_name(name, f"model {manifest['id']!r} in {folder}")
            ignored[name] = "not listed in bundle.json"
    return ignored


def _check_regular_file(path: Path, size: int, model: str) -> None:
    try:
        status = os.lstat(path)
    except OSError:
        raise ModelError(_damaged(model, path, "it is missing")) from None
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(_damaged(model, path, "it is a link or not a plain file"))
    if status.st_size != size:
        raise ModelError(_damaged(model, path, f"it has {status.st_size} bytes, bundle.json says {size}"))


def _read_regular_file(path: Path, size: int, model: str) -> bytes:
    _check_regular_file(path, size, model)
    try:
        with open(path, "rb") as file:
            return file.read(size + 1)
    except OSError as error:
        raise ModelError(
            f"{path} of model {model!r} can't be read ({error.strerror}); check its permissions"
        ) from None


def _damaged(model: str, path: Path, reason: str) -> str:
    return f"model {model!r} is damaged: {path}: {reason}. Install it again"
