"""Find what the grain of a model's draws lacks, and put it into its bundle: every draw is put right by that from then on.

    python Training/equalise.py runs/models/soft-tissue-sarcoma --data DATA/sts/train --patients 18 --version 0.5.0
    python Training/equalise.py runs/models/lung-nodule-ct --data DATA/lidc_ct/train --patients 40 --version 0.7.0

Tumours that the model was trained on are drawn with their own features, and their grain is compared with the real ones', in
rings of frequencies (`TumorSynthLib/texture/equaliser.py`). Each turn adds what is still missing after the draw was fitted into
its image. Run it after export_bundle.py, and before the model is measured on patients that it has never seen.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
import numpy as np
from arms import Bench, cases, chosen, request_of

from TumorSynthLib.errors import ModelError, TumorSynthError
from TumorSynthLib.models.bundle import load_bundle
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.region import Region
from TumorSynthLib.texture.band import LEAST
from TumorSynthLib.texture.equaliser import RINGS, spectrum
from TumorSynthLib.texture.network import MULTIPLE

TURNS = 5
SHARE = 0.7  # of what is missing that a turn adds


def drawn(bench: Bench, tumour) -> tuple[Region, np.ndarray, dict[str, float]] | None:
    """A tumour's region, the network's draw as it comes, what was asked of it; None where the mask is too small for grain."""
    bundle, texture, modality = bench.bundle, bench.texture, tumour.case.modality
    region = Region.around(tumour.volume, tumour.mask, bundle.spacing, bundle.json["margin_mm"], MULTIPLE)
    if region.mask.sum() < LEAST:
        return None
    asked = {k: v for k, v in request_of(tumour.own).items() if k in texture.features}
    return region, texture.sample(region.array, region.mask, modality, asked, valid=region.valid), asked


def lacking(bench: Bench, modality: str, turns: int = TURNS) -> tuple[list[float], np.ndarray]:
    """What draws of a modality lack in each ring, and what was missing before the first and after the last turn (2, RINGS)."""
    texture, found = bench.texture, np.zeros(RINGS)
    texture.in_band = False
    pairs = [p for t in bench.tumours if t.case.modality == modality and (p := drawn(bench, t))]
    if not pairs:
        raise ModelError(f"no tumour of {modality} has {LEAST} voxels; give other --data")
    texture.in_band = True
    missing = []
    for turn in range(turns + 1):
        texture.lacking = {modality: found}
        off = [
            spectrum(region.array, region.mask)
            - spectrum(
                texture.fitting(draw, region.array, region.mask, modality, asked, region.valid), region.mask
            )
            for region, draw, asked in pairs
        ]
        missing.append(np.mean(off, 0))
        if turn < turns:
            found = found + SHARE * missing[-1]
    return [round(float(v), 3) for v in found], np.stack([missing[0], missing[-1]])


def equalise(folder: Path, data: Path, patients: int, version: str) -> dict[str, list[float]]:
    """Write the bundle with what its draws lack, per modality, as another version."""
    bundle = load_bundle(folder)
    found = {}
    for modality in bundle.modalities:
        few = chosen([c for c in cases("sts", data) if c.modality == modality], patients, 1, 0)
        found[modality], missing = lacking(Bench.load(bundle, few), modality)
        for when, values in zip(("before", "after"), missing):
            print(f"{modality} {when}: lacked", " ".join(f"{v:+.2f}" for v in values), flush=True)
    manifest = {k: v for k, v in bundle.json.items() if k != "files"}
    manifest |= {"version": version, "sampler": manifest["sampler"] | {"grain": found}}
    write_bundle(folder, manifest, {name: bundle.tensors(name, "torch") for name in bundle.json["files"]})
    return found


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("--data", type=Path, required=True, help="patients that the model was trained on")
    p.add_argument("--patients", type=int, default=18, help="of each modality")
    p.add_argument("--version", required=True, help="of the bundle from then on, since its draws are others")
    a = p.parse_args()
    try:
        equalise(a.bundle, a.data, a.patients, a.version)
    except (TumorSynthError, OSError) as error:
        raise SystemExit(f"equalise: {error}") from None
