"""Wall clock and memory of edits from the shell, and of the same edit in a large volume.

    python Testing/benchmark_edit.py                 # STS_036 T1 (test data) and lung1 (the demonstration's cache)
    python Testing/benchmark_edit.py --out edit.json --lung-model FOLDER --sarcoma-model FOLDER

Times are from the start of the process to its end, files included; on a busy machine CPU time says more. Memory is the
process' peak. The last rows time the
edit alone, in the image as it is and in the middle of a 512 × 512 × 512 volume.
"""

from __future__ import annotations

import argparse
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

COMMANDS = {
    "remove": ["remove"],
    "synthesize, no solver": ["synthesize", "--no-solve"],
    "synthesize, solver": ["synthesize"],
}
LARGE = 512
RUNS = 3
LIMITS = {"remove": 10, "synthesize, no solver": 10, "synthesize, solver": 30}  # seconds on two cores
LIMIT_BYTES = 2e9


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

        folder = lungs()
        paths = [folder / f"lung{n}_{kind}.nrrd" for n in (1, 2) for kind in ("image", "label")]
        found["lung1 CT"] = (args.lung_model, *paths)
    except TumorSynthError as error:
        print(f"no lung1: {error}", file=sys.stderr)
    return found


def from_shell(*arguments: str) -> tuple[float, float, float]:
    """Seconds, seconds of CPU time and peak bytes of one `tumorsynth` command in a process of its own."""
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "TumorSynthLib", *arguments],
        cwd=ROOT,
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


def edits(name: str, case, device: str, folder: Path) -> list[dict]:
    """Rows of the edits of one case; requests take the donor's features."""
    model, image, mask, *donor = map(str, case)
    rows = []
    for title, (command, *options) in COMMANDS.items():
        more = ["--donor", *donor] if command == "synthesize" else []
        out = ["--out", str(folder / "out.nii.gz"), "--device", device]
        seconds, cpu, memory = from_shell(command, image, mask, "--model", model, *more, *options, *out)
        row = {"case": name, "edit": title, "seconds": seconds, "cpu seconds": cpu, "bytes": memory}
        rows.append(row | {"limit": LIMITS[title]})
        show(rows[-1])
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
    parser.add_argument("--out", type=Path, help="write the rows as JSON")
    args = parser.parse_args()
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "TumorSynthLib", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True
        )
        times.append(time.perf_counter() - start)
    rows = [{"case": "-", "edit": "--help", "seconds": statistics.median(times), "limit": 0.5}]
    show(rows[0])
    with tempfile.TemporaryDirectory() as folder:
        for name, case in cases(args).items():
            rows += edits(name, case, args.device, Path(folder))
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
