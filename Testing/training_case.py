"""What tests of training share: generated cases, prepared crops, runs of the scripts, and how two runs compare."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

TRAINING = Path(__file__).resolve().parents[1] / "Training"
sys.path.insert(0, str(TRAINING))  # the scripts are run, not installed

common = pytest.importorskip("common")
export_bundle = pytest.importorskip("export_bundle")
monitor = pytest.importorskip("monitor")
prepare = pytest.importorskip("prepare")
train_texture = pytest.importorskip("train_texture")

SPACING = (1.0, 1.0, 2.0)  # x, y, z in mm
CROP = (12, 16, 16)
PLAN = prepare.Plan(SPACING, CROP, windows=2, varied=1, context=2)
WIDTHS = ["--widths", "8", "8", "16"]
PATIENTS = 6


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Sums in one order, and no fight for the machine's cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def write_case(image_path: Path, mask_path: Path, seed: int, spacing=SPACING):
    """A noisy ellipsoid in noisy surroundings, 20 x 36 x 36 voxels."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((20, 36, 36))
    center = rng.uniform(-2, 2, 3)
    mask = ((z - 9.5 - center[0]) / 3.5) ** 2 + ((y - 18 - center[1]) / 6) ** 2 + (
        (x - 18 - center[2]) / 5
    ) ** 2 < 1
    image = np.where(mask, rng.normal(80 + 20 * seed, 45, mask.shape), rng.normal(-40, 20, mask.shape))
    for path, array in ((image_path, np.rint(image).astype(np.int16)), (mask_path, mask.astype(np.uint8))):
        path.parent.mkdir(parents=True, exist_ok=True)
        out = sitk.GetImageFromArray(array)
        out.SetSpacing(spacing)
        out.SetOrigin((-10.0, 20.0, 5.0))
        sitk.WriteImage(out, str(path))


def tree(folder: Path, patients: int, modalities=("CT", "T1")) -> Path:
    """A folder in the layout of `sts`."""
    for i in range(patients):
        for j, modality in enumerate(modalities):
            stem = folder / f"STS_{i:03d}_{modality}"
            write_case(Path(f"{stem}_image.nii.gz"), Path(f"{stem}_mask.nii.gz"), 2 * i + j)
    return folder


def call(module, *arguments):
    """A script's `main` with command-line arguments."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
        module.main()


def train(data: Path, out: Path, *more) -> dict:
    call(train_texture, "--data", data, "--out", out, "--draws", 2, *WIDTHS, *more)
    return torch.load(out / "last.pt", map_location="cpu", weights_only=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """Crops of six generated patients with two modalities."""
    folder = tmp_path_factory.mktemp("prepared")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(prepare.PLANS, "sts", PLAN)
        call(prepare, "sts", "--data", tree(folder / "raw", PATIENTS), "--out", folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def trained(prepared, tmp_path_factory) -> tuple[Path, dict]:
    """Four uninterrupted steps of four items; the log has each step's own losses."""
    out = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        log_each_step(patch)
        return out, train(prepared, out, "--steps", 4, "--batch", 4, "--threads", 1)


# What a process of its own runs to log each step, as `log_each_step` lets this one do.
EACH_STEP = """
import sys
sys.path.insert(0, {!r})
import monitor, {} as script
monitor.EVERY, monitor.KEPT = 1, 0.0
script.main()
"""


def log_each_step(patch):
    """A line of the log for each step, with that step's own losses in place of running averages."""
    patch.setattr(monitor, "EVERY", 1)
    patch.setattr(monitor, "KEPT", 0.0)


@pytest.fixture
def each_step(monkeypatch):
    log_each_step(monkeypatch)


def assert_same_losses(folder: Path, other: Path):
    """Two runs logged the same losses, step by step, and the first has the last ones in its checkpoint."""
    found, expected = step_losses(folder), step_losses(other)
    assert len(found) == len(expected) > 1 and "loss" in expected[0]
    for row, wanted in zip(found, expected):
        assert row == pytest.approx(
            wanted, rel=5e-3
        )  # sums in another order tip weights, and then grey levels
    average = torch.load(folder / "last.pt", map_location="cpu", weights_only=True)["average"]
    assert average == pytest.approx({k: found[-1][k] for k in average}, abs=1e-6)


def step_losses(folder: Path) -> list[dict]:
    rows = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in ("seconds", "left")} for row in rows]


def sampler_of(prepared: Path):
    data = common.Prepared(prepared)
    names = train_texture.conditioning(data.meta["names"])
    columns = [data.meta["names"].index(n) for n in names]
    return train_texture.Sampler(data, columns, train_texture.intensity_maps(data)), names


def close(a: dict, b: dict) -> float:
    """Largest difference between two states of tensors."""
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def killed_and_resumed(arguments, monkeypatch) -> dict:
    """A run of four steps that was stopped after two, and started again."""
    save = common.Run.save

    def killed(self, state, name="last.pt"):
        save(self, state, name)
        if state["step"] == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(common.Run, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train(*arguments)
    assert torch.load(arguments[1] / "last.pt", map_location="cpu", weights_only=True)["step"] == 2
    return train(*arguments)
