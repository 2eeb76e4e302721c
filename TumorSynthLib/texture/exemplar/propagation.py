"""Belief propagation on a graph of nodes that choose among a few labels.

Arrays hold labels first, so that the long axis is contiguous."""

from __future__ import annotations

import numpy as np


def propagate(unary, first, second, pair, rounds: int, damping: float, sweeps: int) -> np.ndarray:
    """Labels of least cost, about: damped min-sum belief propagation, then sweeps of single changes.

    unary (N, L); edges join nodes first (E,) and second (E,); pair (L of first, L of second, E) is their cost -> labels
    int (N,)."""
    unary = np.ascontiguousarray(unary.T)
    if not len(first):
        return unary.argmin(0)
    count, edges = unary.shape[1], np.arange(len(first))
    back = pair.transpose(1, 0, 2)
    to_first = to_second = np.zeros((len(unary), len(first)), np.float32)
    for _ in range(rounds):
        belief = unary + _sums(first, to_first, count) + _sums(second, to_second, count)
        least_second = _least(belief[:, first] - to_first, pair)
        least_first = _least(belief[:, second] - to_second, back)
        to_second = _damped(to_second, least_second, damping)
        to_first = _damped(to_first, least_first, damping)
    choice = (unary + _sums(first, to_first, count) + _sums(second, to_second, count)).argmin(0)
    third = np.arange(count) % 3
    for sweep in range(sweeps):
        cost = unary + _sums(first, back[choice[second], :, edges].T, count)
        cost += _sums(second, pair[choice[first], :, edges].T, count)
        choice = np.where(third == sweep % 3, cost.argmin(0), choice)
    return choice


def _sums(nodes, messages, count: int) -> np.ndarray:
    """Messages (L, E) summed at the nodes (E,) that they go to: (L, N)."""
    return np.stack([np.bincount(nodes, m, count) for m in messages]).astype(np.float32)


def _least(held, pair) -> np.ndarray:
    """Least of held (L, E) + pair (L, M, E) over the first axis: (M, E)."""
    least = held[0] + pair[0]
    sums = np.empty_like(least)
    for one, cost in zip(held[1:], pair[1:]):
        np.add(one, cost, out=sums)
        np.minimum(least, sums, out=least)
    return least


def _damped(old, new, damping: float):
    return (damping * old + (1 - damping) * (new - new.min(0))).astype(np.float32, copy=False)
