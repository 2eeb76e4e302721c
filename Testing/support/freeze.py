"""Compares the voxels of six edits before and after a change of the code, on one machine in one run.

    python Testing/support/freeze.py --against COMMIT [--data DIR] [--cases tiny phantom nodule sarcoma]

COMMIT is unpacked into a temporary folder (`git archive`), and each tree edits the same images in a process of its own, with one
thread and the network's engine. Hashes can't be kept instead: another processor gives other last digits. Ends with 0 where all
voxels are equal, with 1 where some differ; each edit is a line. The real crops are left out where their folder is missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA_VARIABLE = "TUMORSYNTH_TEST_DATA"
EDITS = ("remove", "own", "donor", "slider", "reshape", "insert")
EDITS_OF_TINY = ("remove", "own", "donor", "slider", "move")  # it draws no shapes
STEPS = 2  # evaluations of the network: enough to see a change
#: Case: model, image and mask in the data folder; None is a generated image. "tiny" is the tests' model, which takes seconds.
#: The real crops get voxels of the model's size, or of another one: until the grid followed pyradiomics' own rule, sizes within
#: 1 % of the model's, as these crops have, counted as equal to it, and all their voxels would differ.
CASES: dict[str, tuple[str, str | None, float]] = {
    "tiny": ("tiny", None, 1.0),
    "phantom": ("lung-nodule-ct", None, 1.0),
    "nodule": ("lung-nodule-ct", "lidc_ct/val/LIDC-IDRI-0015_R_1_CT", 1.0),
    "nodule-resampled": ("lung-nodule-ct", "lidc_ct/val/LIDC-IDRI-0015_R_1_CT", 1.1),
    "sarcoma": ("soft-tissue-sarcoma", "sts/val/STS_041_T1", 1.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", metavar="COMMIT", help="the tree to compare with, e.g. HEAD~3")
    parser.add_argument("--data", metavar="DIR", help=f"real data (default: {DATA_VARIABLE}, or shared/data)")
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--run", metavar="DIR", help=argparse.SUPPRESS)  # the tree's own process
    args = parser.parse_args()
    data = Path(args.data or os.environ.get(DATA_VARIABLE) or ROOT.parent / "shared" / "data").resolve()
    cases = [c for c in args.cases if CASES[c][1] is None or (data / f"{CASES[c][1]}_image.nii.gz").is_file()]
    if args.run:
        run(Path(args.run), cases, data)
        return 0
    if not args.against:
        parser.error("--against COMMIT is needed")
    for case in set(args.cases) - set(cases):
        print(f"{case}: left out, there is no {data / str(CASES[case][1])}_image.nii.gz")
    return compare(args.against, cases, data)


def compare(commit: str, cases: list[str], data: Path) -> int:
    """Run both trees; returns the exit code."""
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="freeze-") as folder:
        before, results = Path(folder, "tree"), {}
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=BytesIO(archive)) as tree:
            tree.extractall(before, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
        for name, tree in (("before", before), ("after", ROOT)):
            results[name] = Path(folder, name)
            results[name].mkdir()
            in_tree(tree, results[name], cases, data)
        differing = 0
        for case in cases:
            for edit in edits_of(case):
                old, new = (np.load(results[name] / f"{case}-{edit}.npy") for name in ("before", "after"))
                changed = int((old != new).sum())
                differing += bool(changed)
                print(f"{case} {edit}: " + (f"{changed} of {old.size} voxels differ" if changed else "equal"))
    return int(differing > 0)


def in_tree(tree: Path, out: Path, cases: list[str], data: Path) -> None:
    """The edits by the code of a tree, in a process of its own."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(tree), "TUMORSYNTH_MODELS": str(out / "none")}
    command = [sys.executable, __file__, "--run", str(out), "--data", str(data), "--cases", *cases]
    subprocess.run(command, cwd=tree, env=environment, check=True)


def run(out: Path, cases: list[str], data: Path) -> None:
    """Edit with the code that this process finds, and keep the voxels."""
    import numpy as np

    from TumorSynthLib.editor import Editor

    for case in cases:
        model, source, scale = CASES[case]
        if case == "tiny":
            sys.path.insert(0, str(Path.cwd() / "Testing"))  # of the tree that is run
            import editor_case

            volume, mask = editor_case.ct()
            editor = Editor(editor_case.model(out / "tiny"), "cpu")
        else:
            editor = Editor(model, "cpu")
            volume, mask = image_of(source, data, tuple(scale * s for s in editor.bundle.spacing))
        for edit in edits_of(case):
            name, request = request_for(edit, editor, volume, mask)
            images = (volume,) if name == "insert" else (volume, mask)
            result = getattr(editor, name)(*images, request)
            np.save(out / f"{case}-{edit}.npy", result.volume.array)


def edits_of(case: str) -> tuple[str, ...]:
    return EDITS_OF_TINY if case == "tiny" else EDITS


def image_of(source: str | None, data: Path, spacing: tuple[float, ...]):
    """Image and mask (K, J, I); a real crop with voxels of that size, (x, y, z) mm."""
    if source is None:
        from TumorSynthLib.phantom import chest

        return chest(seed=1, radius=9.0)
    from TumorSynthLib.volume import read_image, read_mask

    volume = read_image(data / f"{source}_image.nii.gz")
    mask = read_mask(data / f"{source}_mask.nii.gz", volume)
    return dataclasses.replace(volume, spacing=spacing), mask


def request_for(edit: str, editor, volume, mask):
    """Method of the editor and request of one of the six edits."""
    from TumorSynthLib.editor import EditRequest
    from TumorSynthLib.phantom import chest
    from TumorSynthLib.placement import centre_of_mass

    modality = editor.modality(volume)
    donor = chest(seed=5, radius=8.0, grain=40.0) if modality == "CT" else (volume, mask)
    own = editor.extract(volume, mask, modality)
    ml = own["original_shape_MeshVolume"] / 1000
    away = tuple(float(v) for v in centre_of_mass(volume, mask) + (-2.0, 4.0, 0.0))
    beside = tuple(float(v) for v in centre_of_mass(volume, mask) + to_the_left(volume))
    name, options = {
        "remove": ("remove", {"grow": 1.0}),
        "own": ("synthesize", {"donor": (volume, mask)}),
        "donor": ("retexture", {"donor": donor}),
        "slider": ("retexture", {"features": {"contrast": 1.3 * own["original_glcm_Contrast"]}}),
        "reshape": ("reshape", {"features": {"volume_ml": 1.2 * ml}, "grow": 1.0}),
        "move": ("move", {"to": away, "nearest": True, "grow": 1.0}),
        "insert": ("insert", {"features": {"volume_ml": 0.3 * ml}, "at": beside, "nearest": True}),
    }[edit]
    known = {f.name for f in dataclasses.fields(EditRequest)}
    options |= {"steps": STEPS, "seed": 4} | ({"engine": "bridge"} if "engine" in known else {})
    return name, EditRequest(**options)


def to_the_left(volume):
    """A tenth of the image's width to the left, (x, y, z) LPS mm."""
    import numpy as np

    return np.array([0.1 * volume.size[0] * volume.spacing[0], 0.0, 0.0])


if __name__ == "__main__":
    sys.exit(main())
