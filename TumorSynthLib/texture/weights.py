"""A network's weights in a bundle: one file, and where the model was trained further, a small one of differences.

Further training changes weights by a hundredth or two of their size. Stored as whole numbers of a step per row of a matrix,
the differences compress, in a repository or a download, to about a fifth of what the weights do.
"""

from __future__ import annotations

import torch

from TumorSynthLib.errors import ModelError

WEIGHTS, FURTHER = "network.safetensors", "network-further.safetensors"
STEP = ".step"  # name of a tensor's steps: its own and this
LARGE = 1024  # values; smaller tensors are stored as they are, since some are sensitive
COARSE = 0.7  # steps per root mean square of a row's differences: predictions change by less than in bfloat16
FINE, FINE_BELOW = (
    12.0,
    32768,
)  # … of tensors with fewer values, among them the first and last layer, where errors show most
MOST = 127  # steps that fit


def is_large(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a matrix or kernel that is worth storing smaller."""
    return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() >= LARGE


def read_weights(bundle) -> dict[str, torch.Tensor]:
    """Tensors of network and codec by name, on the CPU.

    :param bundle: verified (`models.Bundle`).
    :raises ModelError: a file is missing or damaged, or the two don't belong together.
    """
    base = bundle.tensors(WEIGHTS, "torch")
    if FURTHER not in bundle.json["files"]:
        return base
    try:
        return base | further(base, bundle.tensors(FURTHER, "torch"))
    except (KeyError, RuntimeError) as error:
        raise ModelError(
            f"model {bundle.id}: {FURTHER} doesn't fit {WEIGHTS}; reinstall it ({error})"
        ) from None


def differences(base: dict[str, torch.Tensor], weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What to store so that `further` makes `weights` from `base`: rounded for large tensors, exact for others that differ."""
    stored = {}
    for name, tensor in weights.items():
        if torch.equal(tensor, base[name].to(tensor.dtype)):
            continue
        if not is_large(tensor):
            stored[name] = tensor
            continue
        change = tensor.float() - base[name].float()
        rows = tuple(range(1, change.ndim))
        step = change.square().mean(rows, keepdim=True).sqrt() / (
            FINE if change.numel() < FINE_BELOW else COARSE
        )
        step = torch.maximum(step, change.abs().amax(rows, keepdim=True) / MOST).clamp(min=1e-12)
        stored[name], stored[name + STEP] = torch.round(change / step).to(torch.int8), step
    return stored


def further(base: dict[str, torch.Tensor], stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors that `differences` stored, in float32 where they are large."""
    return {
        name: base[name].float() + tensor.float() * stored[name + STEP] if name + STEP in stored else tensor
        for name, tensor in stored.items()
        if not name.endswith(STEP)
    }
