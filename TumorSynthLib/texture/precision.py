"""Where networks run in bfloat16: devices that are faster with it."""

from __future__ import annotations

from contextlib import nullcontext

import torch


def fast_bfloat16(device: torch.device) -> bool:
    """Whether a device halves a network's time with bfloat16: GPUs that have it, and CPUs with matrix tiles (AMX).

    Other CPUs are up to thirty times slower with it.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", None)  # torch >= 2.5
    return device.type == "cpu" and tiles is not None and bool(tiles())


def autocast(device: torch.device):
    """Context in which a network's convolutions and products are bfloat16 where `fast_bfloat16` says so, else float32."""
    fast = fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16) if fast else nullcontext()
