"""How many threads compute, and how they wait: small tumours are solved on one thread, large ones on all."""

import os
import subprocess
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from TumorSynthLib.texture.painter import Painter  # noqa: E402
from TumorSynthLib.texture.touches import LARGEST  # noqa: E402
from TumorSynthLib.threads import WAITING, blas_threads, cores_allowed, restored, share_cores  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]

CONTRAST = "original_glcm_Contrast"


@pytest.fixture
def two():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def _job(voxels: int) -> SimpleNamespace:
    region = SimpleNamespace(mask=np.ones(voxels, bool))
    clock = SimpleNamespace(stage=lambda name: nullcontext())
    return SimpleNamespace(clock=clock, implied={}, used={CONTRAST: 1.0}, modality="CT", region=region)


@pytest.mark.parametrize(("voxels", "threads"), [(LARGEST, 1), (LARGEST + 1, 2)])
def test_threads_of_the_solver(two, monkeypatch, voxels, threads):
    """On two, small tumours took twice as long, large ones less."""
    seen = []

    def done(self, job, *arguments):
        seen.append(torch.get_num_threads())
        return SimpleNamespace(native="box", reached=dict(job.used))

    monkeypatch.setattr(Painter, "_solve", done)
    monkeypatch.setattr(Painter, "_touched", done)
    monkeypatch.setattr(Painter, "spread", lambda self, modality: {CONTRAST: 1.0})
    Painter(None, "cpu")._solved(_job(voxels), None, None)
    assert seen == [threads] * 2 and torch.get_num_threads() == 2


def test_threads_come_back_after_an_error(two, monkeypatch):
    def fail(self, *arguments):
        raise MemoryError

    monkeypatch.setattr(Painter, "_solve", fail)
    with pytest.raises(MemoryError):
        Painter(None, "cpu")._solved(_job(1), None, None)
    assert torch.get_num_threads() == 2


def test_waiting_threads_sleep_unless_the_user_says_otherwise():
    environment = {}
    share_cores(environment)
    assert environment["OMP_WAIT_POLICY"] == "PASSIVE" and environment["KMP_BLOCKTIME"] == "0"
    for own in ({"GOMP_SPINCOUNT": "5"}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"KMP_BLOCKTIME": "200"}):
        environment = dict(own)
        share_cores(environment)
        assert {k: v for k, v in environment.items() if k in WAITING} == own


def test_openblas_takes_one_thread_unless_the_user_says_otherwise():
    """Its threads spin while they wait: on two cores they took two thirds of the processor time of an edit."""
    for given, threads in (({}, "1"), ({"OMP_NUM_THREADS": "4"}, "1"), ({"OPENBLAS_NUM_THREADS": "3"}, "3")):
        share_cores(given)
        assert given["OPENBLAS_NUM_THREADS"] == threads
    assert blas_threads({"OPENBLAS_NUM_THREADS": "3"}) == 3 and blas_threads({}) is None


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "6400000 100000\n"}, None),  # more than there are
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "odd\n"}, None),
        ({}, None),
    ],
)
def test_threads_keep_to_a_containers_quota(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cores_allowed(tmp_path) == cores


@pytest.mark.parametrize("module", ["cli", "worker"])
def test_it_is_set_before_torch_is_loaded(module):
    """Too late it has no effect: OpenMP reads it once, when it is loaded."""
    code = (
        f"import sys, TumorSynthLib.{module} as m\n"
        "def seen(*a):\n"
        "    print('torch' in sys.modules); raise SystemExit\n"
        "m.share_cores = seen\n"
        "m.main(['--folder', sys.argv[1]] if m.__name__.endswith('worker') else ['models', 'list'])\n"
    )
    with tempfile.TemporaryDirectory(prefix="tumorsynth-") as folder:
        done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["False"] and not done.returncode


@pytest.mark.parametrize(
    "more, blas", [({}, "3"), ({"blas_threads": 1}, "1")]
)  # earlier versions let OpenBLAS follow
def test_a_repetition_takes_as_many_threads_as_the_edit_and_says_so(more, blas):
    entry = {"plan": {"engine": "bridge", "threads": 3, **more}}
    assert restored(entry, {"OMP_NUM_THREADS": "3"}) == restored(None) == restored({"plan": {}}) == []
    assert "may differ" in restored(entry, {"OMP_NUM_THREADS": "1"})[0]  # numpy is loaded here
    code = (
        "import os; from TumorSynthLib.threads import restored\n"
        f"told = restored({entry!r})\n"
        "print(os.environ['OMP_NUM_THREADS'], os.environ['OPENBLAS_NUM_THREADS'], 'which this repetition takes' in told[0])"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["3", blas, "True"]
