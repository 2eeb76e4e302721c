"""Put measured scores into a bundle's card, in place of those that are there; weights and version stay.

    python Training/score_bundle.py Resources/Models/lung-nodule-ct Training/results/lung-nodule-ct-*.json

Each file is one of evaluate.py's (texture, removal or shape) and must have measured this model, in this version; shapes may
have been measured in an earlier one, whose shape part was kept. What two files measured is taken from the one with more cases.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import common  # noqa: F401  (puts the checkout on the path)
from export_shape import compact as compact_shape
from scoring import compact

from TumorSynthLib.errors import ModelError
from TumorSynthLib.models.bundle import Bundle, load_bundle
from TumorSynthLib.models.write import write_bundle


def score(folder: Path, results: list[Path]) -> Bundle:
    """Write the bundle with the results' scores.

    Files of rows, which evaluate.py writes beside its results, are left out.

    :raises ModelError: a result is of another model or version, or holds nothing.
    """
    bundle = load_bundle(folder)
    texture: dict = {}
    shape = {}
    for path in (p for p in results if not p.name.endswith(".rows.json")):
        out = json.loads(path.read_text())
        measured, mine = [out.get("model")], [bundle.id]
        if out["task"] != "shape":
            measured, mine = [*measured, out.get("version")], [*mine, bundle.version]
        if measured != mine:
            raise ModelError(
                f"{path} measured {' '.join(map(str, measured))}, not {' '.join(mine)}; measure this one"
            )
        if out["task"] == "shape":
            shape[path.stem] = compact_shape(out)
        else:
            for kind, rows in compact(out).items():
                if not rows:
                    raise ModelError(f"{path} has no results: measure more patients")
                texture[kind] = _of_most(texture.get(kind, {}), rows)
    manifest = {k: v for k, v in bundle.json.items() if k != "files"}
    if texture:
        manifest["scores"] = texture
    if shape and "shape" in manifest:
        manifest["shape"] = manifest["shape"] | {"scores": shape}
    files = {name: bundle.tensors(name, "torch") for name in bundle.json["files"]}
    return write_bundle(folder, manifest, files)


def _of_most(found: dict, rows: dict) -> dict:
    """Two results' rows by name; what both have, from the one with more cases."""

    def cases(row) -> int:
        return row.get("cases, patients", [0])[0] if isinstance(row, dict) else 0

    return found | {k: row for k, row in rows.items() if k not in found or cases(row) >= cases(found[k])}


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("results", type=Path, nargs="+")
    a = p.parse_args()
    try:
        print(f"{a.bundle}: scores of {len(a.results)} results in {score(a.bundle, a.results).id}")
    except (ModelError, OSError) as error:
        raise SystemExit(f"score_bundle: {error}") from None
    except (ValueError, KeyError, AttributeError) as error:
        raise SystemExit(f"score_bundle: not all of these are results of evaluate.py ({error!r})") from None
