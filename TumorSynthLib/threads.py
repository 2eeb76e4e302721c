"""How many of torch's threads computations take."""

from __future__ import annotations

from contextlib import contextmanager

import torch


@contextmanager
def one_thread(small: bool = True):
    """Context with one thread, where computations are small: threads of those take longer to meet than to compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1 if small else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
