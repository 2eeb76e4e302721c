"""Small tumours are solved on one thread, large ones on all; the number of threads is as before in the end."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from TumorSynthLib.drawing import Painter  # noqa: E402
from TumorSynthLib.texture.touches import LARGEST  # noqa: E402

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
