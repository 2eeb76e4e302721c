"""Prepared crops on disk: written one by one, so that a data set of any size goes through."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass
class Crop:
    """One crop: image (z, y, x) int16, label bits, kind, region, and features unless it is context."""

    image: np.ndarray
    label: np.ndarray
    kind: str
    region: int
    features: dict[str, float] | None


class Writer:
    """Writes crops to a folder as they come; `meta.json`, without which the folder can't be used, comes last.

    :param plan: a `prepare.Plan`.
    """

    HEADER = 128  # bytes of a .npy header, which is written when the number of crops is known

    def __init__(self, folder: Path, plan):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "meta.json").unlink(missing_ok=True)
        self.folder, self.plan = folder, plan
        self.files = {name: open(folder / f"{name}.npy", "w+b") for name in ("images", "labels")}  # noqa: SIM115
        for file in self.files.values():
            file.write(b"\0" * self.HEADER)
        self.features: list = []
        self.rows: list = []
        self.names = None

    def add(self, crop: Crop, case: dict):
        """One crop; `case` has its id, patient and modality."""
        if crop.features:
            self.names = self.names or list(crop.features)
        self.features.append(crop.features)
        self.files["images"].write(np.ascontiguousarray(crop.image, "<i2").tobytes())
        self.files["labels"].write(np.ascontiguousarray(crop.label, np.uint8).tobytes())
        region = {"region": self.plan.names[crop.region]} if len(self.plan.names) > 1 else {}
        self.rows.append({**case, "kind": crop.kind, **region})

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels written so far, read from disk."""
        shape = (len(self.rows), *self.plan.crop)
        for file in self.files.values():
            file.flush()
        kinds = {"images": "<i2", "labels": "u1"}
        return tuple(np.memmap(f.name, kinds[n], "r", self.HEADER, shape) for n, f in self.files.items())

    def save(self, population: dict, layout: str, left_out: dict[str, str]):
        shape = (len(self.rows), *self.plan.crop)
        for (_, file), kind in zip(self.files.items(), ("<i2", "|u1")):
            text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}"
            file.seek(0)
            file.write(b"\x93NUMPY\x01\x00" + (self.HEADER - 10).to_bytes(2, "little"))
            file.write(text.ljust(self.HEADER - 11).encode() + b"\n")
            file.close()
        rows = [[f[n] for n in self.names] if f else [np.nan] * len(self.names) for f in self.features]
        np.save(self.folder / "features.npy", np.array(rows))
        (self.folder / "rows.json").write_text(json.dumps(self.rows))
        plan = self.plan
        meta = {"layout": layout, "spacing": plan.spacing, "names": self.names, "population": population}
        meta["modalities"] = sorted({r["modality"] for r in self.rows})
        meta["regions"], meta["median"], meta["left_out"] = plan.labels(), plan.median, left_out
        meta["extraction"] = {"binWidth": plan.bin_width, "resampledPixelSpacing": list(plan.spacing)}
        part = self.folder / "meta.json.part"
        part.write_text(json.dumps(meta))
        os.replace(part, self.folder / "meta.json")
