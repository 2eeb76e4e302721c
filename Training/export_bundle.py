"""Turn a checkpoint of train_texture.py and its prepared data into a model bundle that the library loads.

    python Training/export_bundle.py --run runs/lidc --data runs/data/lidc --out runs/models/lung-nodule-ct \\
        --id lung-nodule-ct --version 0.1.0 --title "Lung nodule (CT)" --organ lung --licence "CC BY 4.0" [--scores RESULTS.json]
    one CPU core, one GPU, one node, several nodes: the same command, once, in one process on a CPU core

The averaged weights are written; large ones as float16 with eight significant bits, which a repository stores in a sixth
less space than eleven, and which are all that networks compute with in bfloat16. Scaling of features and latents stays
float32. The bundle is first written to a temporary folder, opened as an edit would open it, and its output compared with the
checkpoint's; what is refused leaves --out as it was. Bundles in Resources/Models have 20 MB at most.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from pathlib import Path

import common
import numpy as np
import torch
from scoring import compact

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import Bundle, load_bundle
from TumorSynthLib.models.intensity import Intensity
from TumorSynthLib.models.write import write_bundle
from TumorSynthLib.texture.bridge import nodes
from TumorSynthLib.texture.codec import make_codec
from TumorSynthLib.texture.generator import WEIGHTS, TextureModel
from TumorSynthLib.texture.network import BridgeNetwork, NetworkConfig

MODELS = Path(__file__).resolve().parents[1] / "Resources" / "Models"
MAX_BYTES = 20_000_000  # of all files of a model in MODELS: the repository must stay small
BITS = 8  # significant bits of a stored weight
LARGE = 1024  # values; smaller tensors are stored as they are, since some are sensitive
HALF_LIMIT = 6e4  # float16 ends at 65504
CT_RANGE = (-1024.0, 3071.0)  # HU, what a CT scanner stores
SOURCES = {  # layout: (data, its licence, source to cite); only data that permits it may shape weights that are shipped
    "sts": (
        "Soft-tissue-Sarcoma (TCIA), CT and T1 MR, by way of theibsi/data_sets",
        "CC BY 3.0",
        "doi:10.7937/K9/TCIA.2015.7GO2GSKS",
    ),
    "lidc": (
        "LIDC-IDRI (TCIA), nodules' volumes of interest",
        "CC BY 3.0",
        "doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    ),
}


def is_large(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a matrix or kernel that is worth storing smaller."""
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= LARGE


def small(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as it is stored: rounded and in float16 if it is a large matrix or kernel, else unchanged."""
    tensor = tensor.detach().cpu().contiguous()
    if not is_large(tensor) or float(tensor.abs().max()) >= HALF_LIMIT:
        return tensor
    mantissa, exponent = torch.frexp(tensor)
    return torch.ldexp(torch.round(mantissa * 2**BITS), exponent - BITS).half()


def weights(checkpoint: dict) -> dict[str, torch.Tensor]:
    """Averaged network and codec of a checkpoint under the keys that a bundle has."""
    network = {f"network.{k}": v.detach().cpu().contiguous() for k, v in checkpoint["ema"].items()}
    return network | {f"codec.{k}": v.detach().cpu().contiguous() for k, v in checkpoint["codec"].items()}


def population(meta: dict) -> tuple[dict, dict[str, torch.Tensor]]:
    """Manifest entry and tensor (cases, features) float32 per modality, and per region where there are several."""
    entries = {}
    tensors: dict = {}
    several = len(meta.get("regions", [])) > 1
    for modality in meta["modalities"]:
        found = meta["population"][modality]
        if several:
            parts = {r: _cases(cases, f"{modality} {r}") for r, cases in found.items()}
            entries[modality] = {r: {**entry, "tensor": f"{modality}/{r}"} for r, (entry, _) in parts.items()}
            tensors |= {f"{modality}/{r}": values for r, (_, values) in parts.items()}
        else:
            entry, tensors[modality] = _cases(found, modality)
            entries[modality] = {**entry, "tensor": modality}
    return entries, tensors


def _cases(found: dict[str, dict[str, float]], where: str) -> tuple[dict, torch.Tensor]:
    """Names, cases and values of a population; cases with an undefined feature are left out."""
    names = list(next(iter(found.values())))
    rows = {case: [values.get(n, math.nan) for n in names] for case, values in found.items()}
    kept = {case: row for case, row in rows.items() if np.isfinite(row).all()}
    if len(kept) < len(rows):
        print(
            f"{where}: {len(rows) - len(kept)} of {len(rows)} cases left out of the population, a feature is undefined"
        )
    if not kept:
        raise ModelError(f"{where}: no case has all its features; prepare the data again")
    return {"names": names, "cases": list(kept)}, torch.tensor(list(kept.values()), dtype=torch.float32)


def observed(data: common.Prepared, modality: int) -> tuple[float, float]:
    """Intensities of a modality's crops: from 0, or below it if crops go there (median 0.1 percentile), to the largest."""
    rows = np.flatnonzero(data.modality == modality)
    lows, highs = zip(*((np.percentile(data.images[i], 0.1), data.images[i].max()) for i in rows))
    return float(min(0, np.median(lows))), float(max(highs))


def intensity(checkpoint: dict, data: common.Prepared) -> dict:
    """Manifest entry per modality: the network's map, the unit, and the range that an edit may write."""
    entries = {}
    for k, (modality, (center, scale)) in enumerate(checkpoint["config"]["intensity"].items()):
        ct = Intensity.of(None, modality).is_ct
        low, high = CT_RANGE if ct else observed(data, k)
        unit = "HU" if ct else "grey level"
        entries[modality] = {
            "kind": "asinh",
            "center": center,
            "scale": scale,
            "unit": unit,
            "range": [low, high],
        }
    return entries


def margin(data: common.Prepared) -> float:
    """Context in mm around a tumour: a third of the training crops' extent in plane, what the network saw on average."""
    spacing, shape = data.meta["spacing"], data.images.shape[1:]
    return round(min(spacing[0] * shape[2], spacing[1] * shape[1]) / 3, 1)


def training(checkpoint: dict, data: common.Prepared, a) -> dict:
    """What the weights were trained on, how much and how long."""
    layout = data.meta["layout"]
    name, licence, source = SOURCES.get(layout, (a.data_name, a.data_licence, a.data_source))
    if not (name and licence):
        raise ModelError(
            f"layout {layout!r}: say what the weights were trained on with --data-name and --data-licence"
        )
    kinds = [r["kind"] for r in data.rows]
    return {
        "data": name, "licence": licence, "source": source, "patients": len({common.patient_of(r["patient"]) for r in data.rows}),
        "crops": {k: kinds.count(k) for k in sorted(set(kinds))}, "crop_voxels": list(data.images.shape[1:]),
        "steps": checkpoint["step"], "minutes": round(checkpoint["spent"] / 60, 1), "hardware": checkpoint.get("hardware", "CPU"),
        **before(a.init),
        **({"scaled_to_median": data.meta["median"]} if data.meta.get("median") else {}),
    }  # fmt: skip


def before(init: Path | None) -> dict:
    """What the bundle was trained for that `train_texture.py --init` started from."""
    if init is None:
        return {}
    bundle = load_bundle(init)
    past = bundle.json["training"]
    return {
        "before": [
            *past.get("before", []),
            {
                "version": bundle.version,
                **{k: past[k] for k in ("steps", "minutes", "hardware") if k in past},
            },
        ]
    }


def manifest(checkpoint: dict, data: common.Prepared, entries: dict, a) -> dict:
    """bundle.json without its files."""
    meta, config = data.meta, checkpoint["config"]
    return {
        "id": a.id, "version": a.version, "title": a.title, "organ": a.organ, "modalities": list(meta["modalities"]),
        "regions": meta.get("regions", ["tumour"]), "spacing_mm": [float(s) for s in meta["spacing"]],
        "margin_mm": a.margin or margin(data),
        "intensity": intensity(checkpoint, data),
        "extraction": {m: dict(meta["extraction"]) for m in meta["modalities"]},
        "codec": dict(checkpoint["codec_config"]),
        "network": {"config": dict(config["network"]), "features": list(config["names"])},
        "sampler": {"nodes": list(nodes(a.steps)), "eta": a.eta}, "population": entries,
        "training": training(checkpoint, data, a), "licence": a.licence,
        "scores": {k: v for f in a.scores for k, v in compact(json.loads(f.read_text())).items()},
    }  # fmt: skip


def check_fits(checkpoint: dict, data: common.Prepared):
    """The checkpoint was trained on this prepared folder's layout, grid and modalities."""
    for key, value in checkpoint["config"]["meta"].items():
        if data.meta[key] != value:
            raise ModelError(
                f"the checkpoint was trained with {key} = {value}, this data has {data.meta[key]}; give its own --data"
            )


@torch.inference_mode()
def difference(checkpoint: dict, bundle: Bundle) -> float:
    """Largest difference between the bundle's and the checkpoint's prediction, as a share of the prediction's deviation."""
    model = TextureModel.from_bundle(bundle, "cpu")
    network = BridgeNetwork(NetworkConfig.from_dict(checkpoint["config"]["network"])).eval()
    network.load_state_dict(checkpoint["ema"])
    codec = make_codec(checkpoint["codec_config"])
    codec.load_state_dict(checkpoint["codec"])
    rng, c = torch.Generator().manual_seed(0), network.config
    x = torch.randn(1, 1, 8, 32, 32, generator=rng)
    values = network.tokens.center[:1].where(~network.tokens.log[:1], network.tokens.center[:1].exp())
    around = torch.rand(1, network.enter.in_channels // 3 - 2 * c.latent_channels, 4, 16, 16, generator=rng)
    args = (
        around,
        torch.tensor([0.3]),
        torch.tensor([0]),
        values,
        torch.ones(1, c.features, dtype=torch.bool),
        torch.tensor([False]),
    )
    out, mine = (
        n(k.encode(x), k.encode(x), *args) for n, k in ((network, codec), (model.network, model.codec))
    )
    return float((out - mine).abs().max() / out.std())


def parse(arguments: list[str] | None = None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument(
        "--run", type=Path, required=True, help="folder of train_texture.py, or a checkpoint in it"
    )
    p.add_argument("--data", type=Path, required=True, help="prepared folder that it was trained on")
    p.add_argument("--out", type=Path, required=True, help="the bundle's folder")
    p.add_argument("--id", required=True, help="e.g. lung-nodule-ct")
    p.add_argument("--version", required=True, help="e.g. 1.0.0")
    p.add_argument("--title", required=True)
    p.add_argument("--organ", required=True)
    p.add_argument("--licence", required=True, help="of the weights")
    p.add_argument("--scores", type=Path, nargs="*", default=[], help="results of evaluate.py")
    p.add_argument(
        "--margin",
        type=float,
        help="context around a tumour in mm; default: a third of the crops' extent in plane",
    )
    p.add_argument(
        "--steps", type=int, help="evaluations of the default sampler; default: six (the paper's: 200)"
    )
    p.add_argument("--eta", type=float, default=1.0, help="fresh noise of the default sampler, 0 to 1")
    p.add_argument("--shapes", type=Path, help="folder of prepare_shapes.py: the bundle makes shapes too")
    p.add_argument("--shape-group", help="the population in it")
    p.add_argument(
        "--shape-run", type=Path, help="folder of train_shape.py; default: shapes without a network"
    )
    p.add_argument(
        "--init",
        type=Path,
        help="the bundle that train_texture.py --init started from; its shape part is kept",
    )
    p.add_argument("--data-name", help="what the weights were trained on, for layouts of one's own")
    p.add_argument("--data-licence")
    p.add_argument("--data-source", default="")
    return p.parse_args(arguments)


def check_size(count: int, out: Path):
    """Models that come with the library must stay small; others may have any size."""
    if count > MAX_BYTES and out.resolve().is_relative_to(MODELS):
        raise ModelError(
            f"{out} would have {count / 1e6:.1f} MB, models in Resources/Models {MAX_BYTES / 1e6:.0f} MB at most; "
            "export to another folder, or train narrower widths"
        )


def export(a) -> Bundle:
    """Write the bundle where it opens and agrees with the checkpoint, and return it.

    :raises ModelError: the checkpoint and the data don't belong together, or the bundle is too large or differs.
    """
    path = a.run / "last.pt" if a.run.is_dir() else a.run
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    data = common.Prepared(a.data)
    check_fits(checkpoint, data)
    entries, tensors = population(data.meta)
    files = {
        WEIGHTS: {k: small(v) for k, v in weights(checkpoint).items()},
        "population.safetensors": tensors,
    }
    told = manifest(checkpoint, data, entries, a)
    if a.shapes:
        from export_shape import FILE, part

        told["shape"], files[FILE] = part(a.shapes, a.shape_group, a.shape_run, [])
    elif a.init and (source := load_bundle(a.init)).json.get("shape"):
        from export_shape import FILE

        told["shape"], files[FILE] = source.json["shape"], source.tensors(FILE, "torch")
    with tempfile.TemporaryDirectory() as folder:
        trial = write_bundle(Path(folder) / a.id, told, files)
        check_size(trial.bytes, a.out)
        off = difference(checkpoint, trial)
    if not off < 0.05:
        raise ModelError(
            f"{a.out} isn't written: its predictions would differ from the checkpoint's by {off:.3f} of their deviation"
        )
    bundle = write_bundle(a.out, told, files)
    print(
        f"{a.out}: {bundle.bytes / 1e6:.1f} MB, differs from the checkpoint by {off:.5f} of the prediction's deviation at most"
    )
    return bundle


if __name__ == "__main__":
    try:
        export(parse())
    except (ModelError, OSError) as error:
        raise SystemExit(f"export_bundle: {error}") from None
