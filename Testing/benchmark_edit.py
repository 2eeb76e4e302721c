"""Wall clock and memory of edits from the shell, and of the same edit in a large volume.

    python Testing/benchmark_edit.py                 # STS_036 T1 and lung1 (test data, else the demonstration's cache)
    python Testing/benchmark_edit.py --out edit.json --lung-model FOLDER --sarcoma-model FOLDER
    python Testing/benchmark_edit.py --against FOLDER [--only remove,move]   # another version's checkout, run in turns

Times are medians of whole commands, from the start of the process to its end, files included, with Python's bytecode kept as
that of an installed program is; on a busy machine CPU time says more. Memory is the process' peak. The last rows time the edit
alone, in the image as it is and in the middle of a 512 × 512 × 512 volume.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from TumorSynthLib.errors import TumorSynthError  # noqa: E402

PLACES = {  # feature of a slider, volumes (ml) to grow and shrink to, places (LPS mm) to move to and to insert at
    "STS_036 T1": ("contrast=8", "446", "240", ("51", "-52", "-668"), ("63.9", "-26.6", "-714.9")),
    "lung1 CT": ("contrast=27", "1.77", "0.95", ("-45", "-130", "-637.5"), ("-45.8", "-127.2", "-637.5")),
}
LARGE = 512
RUNS = 3
SECONDS = {"remove": 10}  # on two cores
OTHER_SECONDS = 30
RATIOS = {
    "remove": 0.5,
    "slider": 0.3,
}  # to the times of the version that drew everything by the network (cd248da)
OTHER_RATIO = 0.6
LIMIT_BYTES = 2e9
CACHE = tempfile.TemporaryDirectory()


def cases(args: argparse.Namespace) -> dict[str, tuple[str, Path, Path, Path, Path]]:
    """Name to (model, image, mask, donor image, donor mask)."""
    found = {}
    sts = args.data / "sts" / "val"
    if (sts / "STS_036_T1_image.nii.gz").is_file():
        paths = [sts / f"STS_0{n}_T1_{kind}.nii.gz" for n in (36, 38) for kind in ("image", "mask")]
        found["STS_036 T1"] = (args.sarcoma_model, *paths)
    else:
        print(f"no test data at {args.data}: set TUMORSYNTH_TEST_DATA", file=sys.stderr)
    try:
        from TumorSynthLib.samples import lungs

        folder = args.data / "pyradiomics"
        folder = folder if (folder / "lung2_label.nrrd").is_file() else lungs()
        paths = [folder / f"lung{n}_{kind}.nrrd" for n in (1, 2) for kind in ("image", "label")]
        found["lung1 CT"] = (args.lung_model, *paths)
    except TumorSynthError as error:
        print(f"no lung1: {error}", file=sys.stderr)
    return found


def commands(name: str, case) -> dict[str, list[str]]:
    """Title of each edit and its command, without what all have."""
    _, image, mask, *donor = map(str, case)
    feature, larger, smaller, to, at = PLACES[name]
    return {
        "remove": ["remove", image, mask],
        "slider": ["synthesize", image, mask, "--set", feature],
        "move": ["move", image, mask, "--to", *to, "--nearest"],
        "grow": ["reshape", image, mask, "--set", f"volume_ml={larger}", "--nearest"],
        "shrink": ["reshape", image, mask, "--set", f"volume_ml={smaller}", "--nearest"],
        "insert": ["insert", image, "--at", *at, "--nearest"],
        "donor": ["synthesize", image, mask, "--donor", *donor],
    }


@functools.cache
def kept_bytecode(root: Path) -> dict[str, str]:
    """The environment with the bytecode of a checkout in a folder for this run, where none is kept beside the source."""
    environment = os.environ | {"PYTHONPYCACHEPREFIX": CACHE.name}
    compiled = [sys.executable, "-m", "compileall", "-q", str(root / "TumorSynthLib")]
    subprocess.run(compiled, env=environment, check=True)
    return environment


def from_shell(*arguments: str, root: Path = ROOT) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time and peak bytes of one `tumorsynth` command of a checkout in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "TumorSynthLib", *arguments],
        cwd=root,
        env=kept_bytecode(root),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    errors = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        sys.exit(f"tumorsynth {' '.join(arguments)} failed: {errors.strip()}")
    return (
        seconds,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
    )


def edits(name: str, case, args: argparse.Namespace, folder: Path) -> list[dict]:
    """Rows of the edits of one case; medians of `--runs` turns, in each of which every version runs once."""
    rows = []
    made = ["--out", str(folder / "out.nii.gz"), "--model", str(case[0]), "--device", args.device]
    for title, command in commands(name, case).items():
        if args.only and title not in args.only.split(","):
            continue
        if command[0] in ("move", "reshape", "insert"):
            command = [*command, "--out-mask", str(folder / "mask.nii.gz")]
        roots = [ROOT, *([args.against] if args.against else [])]
        turns = [[from_shell(*command, *made, root=root) for root in roots] for _ in range(args.runs)]
        found = [[statistics.median(numbers) for numbers in zip(*runs)] for runs in zip(*turns)]
        seconds, cpu, memory = found[0]
        row = {"case": name, "edit": title, "seconds": seconds, "cpu seconds": cpu, "bytes": memory}
        row["limit"] = SECONDS.get(title, OTHER_SECONDS)
        if args.against:
            row |= {"against": {"seconds": found[1][0], "cpu seconds": found[1][1], "bytes": found[1][2]}}
            row |= {"ratio": seconds / found[1][0], "cpu ratio": cpu / found[1][1]}
            row["limit ratio"] = RATIOS.get(title, OTHER_RATIO)
        rows.append(row)
        show(row)
    return rows


def in_large(name: str, case, device: str) -> dict:
    """Ratio of the time of an edit in a large volume to that in the image, without files; medians of alternating runs."""
    import numpy as np

    from TumorSynthLib.editor import Editor
    from TumorSynthLib.memory import reuse_memory
    from TumorSynthLib.volume import Volume, read_image, read_mask

    reuse_memory()  # as the command line and the module's worker do
    model, image, mask, *_ = case
    small = read_image(image)
    small_mask = read_mask(mask, small)
    array = np.full((LARGE,) * 3, small.array.min(), small.array.dtype)
    large_mask = np.zeros(array.shape, bool)
    middle = tuple(slice((LARGE - n) // 2, (LARGE - n) // 2 + n) for n in small.array.shape)
    array[middle], large_mask[middle] = small.array, small_mask
    large = Volume(array, small.spacing, small.origin, small.direction)
    editor, times = Editor(model, device), {"small": [], "large": []}
    editor.remove(small, small_mask)  # loads the model
    for _ in range(RUNS):
        for which, volume, region in (("small", small, small_mask), ("large", large, large_mask)):
            start = time.perf_counter()
            editor.remove(volume, region)
            times[which].append(time.perf_counter() - start)
    medians = {which: statistics.median(values) for which, values in times.items()}
    row = {
        "case": name,
        "edit": f"remove, in {LARGE}³",
        "seconds": medians["large"],
        "small": medians["small"],
    }
    row |= {"ratio": medians["large"] / medians["small"], "limit ratio": 1.3}
    show(row)
    return row


def show(row: dict) -> None:
    """Print one row."""
    text = f"{row['case']:<12} {row['edit']:<24} {row['seconds']:7.2f} s"
    if "bytes" in row:
        aims = f"(aims: {row['limit']} s, {LIMIT_BYTES / 1e9:.0f} GB)"
        text += f"   {row['cpu seconds']:6.1f} s CPU   {row['bytes'] / 1e6:6.0f} MB   {aims}"
        if "against" in row:
            text += f"   {row['ratio']:.2f} × {row['against']['seconds']:.1f} s, CPU {row['cpu ratio']:.2f}"
            text += f"   (aim: {row['limit ratio']})"
    elif "ratio" in row:
        text += f"   {row['ratio']:.2f} × {row['small']:.2f} s   (aim: {row['limit ratio']})"
    elif "limit" in row:
        text += f"   (aim: {row['limit']} s)"
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = Path(os.environ.get("TUMORSYNTH_TEST_DATA", ROOT.parent / "shared" / "data"))
    parser.add_argument("--data", type=Path, default=default, help="folder of the test data")
    parser.add_argument("--lung-model", default="lung-nodule-ct")
    parser.add_argument("--sarcoma-model", default="soft-tissue-sarcoma")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--skip-large", action="store_true", help="leave out the 512³ volume, which takes 2 GB"
    )
    parser.add_argument("--against", type=Path, metavar="FOLDER", help="compare with another checkout")
    parser.add_argument("--only", metavar="EDIT,...", help="these edits alone")
    parser.add_argument("--runs", type=int, default=1, help="take medians of so many runs (default: 1)")
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "TumorSynthLib", "--help"],
            cwd=ROOT,
            env=kept_bytecode(ROOT),
            stdout=subprocess.DEVNULL,
            check=True,
        )
        times.append(time.perf_counter() - start)
    rows = [{"case": "-", "edit": "--help", "seconds": statistics.median(times), "limit": 0.5}]
    show(rows[0])
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(args).items():
            rows += edits(name, case, args, Path(folder))
            if not args.skip_large:
                rows.append(in_large(name, case, args.device))
    if args.out:
        machine = {
            "cpu_count": os.cpu_count(),
            "load": os.getloadavg() if hasattr(os, "getloadavg") else None,
        }
        args.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
