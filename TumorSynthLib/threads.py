"""How many threads computations take, and how they wait for each other; torch is imported only where it computes."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from TumorSynthLib.errors import ModelError

#: Variables by which a user says how OpenMP's threads wait; if any is set, nothing here changes it.
WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
COUNTS = (
    "OMP_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # MKL, which torch has, follows the first one
BLAS = "OPENBLAS_NUM_THREADS"  # of numpy and scipy
CGROUP = Path("/sys/fs/cgroup")


def share_cores(environment: MutableMapping[str, str] = os.environ) -> None:
    """Have threads sleep, not spin, while they wait, and take no more of them than the process may use cores.

    Spinning threads hold the cores that other programs' threads need: beside one busy process per core an edit took
    four times as long. OpenBLAS's always spin for a while, two thirds of the processor time of an edit without the network, and
    matrices here are small: it gets one thread, with which it also computes the same on any machine.
    It has an effect only before numpy and torch are loaded; variables that are set already are kept.
    """
    environment.setdefault(BLAS, "1")
    if not any(name in environment for name in WAITING):
        environment["OMP_WAIT_POLICY"] = "PASSIVE"  # GNU's OpenMP (torch on Linux)
        environment["KMP_BLOCKTIME"] = (
            "0"  # ms that threads spin in Intel's and LLVM's (torch on Windows and macOS)
        )
    allowed = cores_allowed()
    if allowed is not None:
        for name in COUNTS:
            environment.setdefault(name, str(allowed))


def cores_allowed(cgroup: Path = CGROUP) -> int | None:
    """Cores that a container's quota allows, at least 1, where these are fewer than the process sees; else None.

    OpenMP counts the cores that a process may run on, but not the share of their time that a container may take: on a
    machine with 64 cores and a quota of 4 it would start 64 threads.
    """
    quota = _quota(cgroup)
    seen = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, int(quota)) if quota is not None and quota < seen else None


def _quota(cgroup: Path) -> float | None:
    """Cores' worth of time that a Linux control group allows, of version 2 or 1; None for no limit."""
    try:
        if (cgroup / "cpu.max").is_file():
            limit, period = (cgroup / "cpu.max").read_text().split()[:2]
        else:
            limit, period = ((cgroup / "cpu" / f"cpu.cfs_{n}_us").read_text() for n in ("quota", "period"))
        found = float(limit) / float(period)  # "max" is no number: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return found if found > 0 else None


def restored(
    entry: Mapping[str, Any] | None, environment: MutableMapping[str, str] = os.environ
) -> list[str]:
    """Take as many threads as a recorded edit did, on whose number the last digits of the network and the solver depend.

    It has an effect only before numpy and torch are loaded.

    :param entry: the record; None, or one that holds no number, changes nothing.
    :returns: a note for the user where the number is another one than here.
    """
    plan = (entry or {}).get("plan") or {}
    count, here = plan.get("threads"), environment.get(COUNTS[0]) or str(os.cpu_count() or 1)
    loaded = bool({"numpy", "torch"} & sys.modules.keys())
    blas = plan.get("blas_threads", count)  # earlier versions let it follow torch's
    if isinstance(blas, int) and not loaded:
        environment[BLAS] = str(blas)
    if not isinstance(count, int) or str(count) == here:
        return []
    if loaded:
        return [
            f"made with {count} of torch's threads, but {here} are in use here: the voxels may differ slightly"
        ]
    environment.update(dict.fromkeys((*COUNTS, "MKL_NUM_THREADS"), str(count)))
    return [f"made with {count} of torch's threads, which this repetition takes, too, in place of {here}"]


@contextmanager
def needing_torch(what: str) -> Iterator[None]:
    """Context of an import of torch, with one clear line where it isn't installed, or can't be loaded.

    :param what: for which it is needed.
    :raises ModelError: there is no torch.
    """
    try:
        yield
    except ImportError as error:
        raise ModelError(
            f"{what} needs PyTorch, which can't be loaded ({error}): install it (pip install torch); of edits, only "
            "what a network draws (`--engine bridge`, `--strength 1`, `--priority features`) and `--mass-effect` need it"
        ) from None


@contextmanager
def one_thread(small: bool = True):
    """Context with one thread, where computations are small: threads of those take longer to meet than to compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def blas_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """How many threads OpenBLAS was told to take; None where nobody told it."""
    told = environment.get(BLAS, "")
    return int(told) if told.isdigit() else None


def threads_now() -> int:
    """How many threads torch computes with."""
    import torch

    return torch.get_num_threads()
