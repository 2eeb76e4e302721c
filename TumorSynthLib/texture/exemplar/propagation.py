"""Belief propagation on a graph of nodes that choose among a few labels.

Arrays hold labels first, so that the long axis is contiguous."""

from __future__ import annotations

import numpy as np

SHARES = 3
"""A sweep changes every third node: neighbours that change together would undo each other's change."""


def propagate(unary, first, second, pair, rounds: int, damping: float, sweeps: int) -> np.ndarray:
    """Labels of least cost, about: damped min-sum belief propagation, then sweeps of single changes.

    unary (N, L); edges join nodes first (E,) and second (E,); pair (L of first, L of second, E) is their cost -> labels
    int (N,)."""
    unary = np.ascontiguousarray(unary.T)
    if not len(first):
        return unary.argmin(0)
    count, back = unary.shape[1], pair.transpose(1, 0, 2)
    at_first, at_second = _ending(first, count), _ending(second, count)
    to_first = to_second = np.zeros((len(unary), len(first)), np.float32)
    for _ in range(rounds):
        belief = unary + _sums(at_first, to_first) + _sums(at_second, to_second)
        least_second = _least(belief.take(first, 1) - to_first, pair)
        least_first = _least(belief.take(second, 1) - to_second, back)
        to_second = _damped(to_second, least_second, damping)
        to_first = _damped(to_first, least_first, damping)
    choice = (unary + _sums(at_first, to_first) + _sums(at_second, to_second)).argmin(0)
    flat, steps = pair.reshape(-1), (pair[0].size, len(first))
    third, stale = np.arange(count) % 3, np.ones(count, bool)
    for sweep in range(sweeps):
        own = np.flatnonzero(stale & (third == sweep % 3))
        ends = at_first[:, own], at_second[:, own]
        cost = unary[:, own] + _chosen(ends[0], flat, steps, choice[second])
        cost += _chosen(ends[1], flat, steps[::-1], choice[first])
        best = cost.argmin(0)
        moved, stale[own] = best != choice[own], False
        choice[own] = best
        for end, other in zip(ends, (second, first)):
            edges = end[:, moved].reshape(-1)
            stale[other[edges[edges < len(other)]]] = True
    return choice


def _ending(nodes, count: int) -> np.ndarray:
    """Edges (E,) that end at each of `count` nodes, in their order: int (most edges of a node, count), E for none."""
    table, left = [], np.arange(len(nodes))
    while len(left):
        row = np.full(count, len(nodes))
        row[nodes[left[::-1]]] = left[::-1]  # the first of a node's edges is written last
        table.append(row)
        left = left[row[nodes[left]] != left]
    return np.array(table).reshape(-1, count)


def _sums(ending, messages) -> np.ndarray:
    """Messages (L, E) summed at the nodes that they go to: float32 (L, N)."""
    padded = np.concatenate([messages, np.zeros((len(messages), 1), np.float32)], 1)
    total = np.zeros((len(messages), ending.shape[1]))
    for edges in ending:
        total += padded.take(edges, 1)
    return total.astype(np.float32)


def _chosen(ending, pair, steps: tuple[int, int], other) -> np.ndarray:
    """Costs (L, N) of the labels of nodes beside what the nodes at the other ends (E,) of their edges chose.

    steps: between costs (flat) of a node's own labels, and of those of the other end."""
    labels = int(np.sqrt(len(pair) // len(other)))
    total = np.zeros((labels, ending.shape[1]))
    for edges in ending:
        none = edges == len(other)
        edge = np.minimum(edges, len(other) - 1)
        at = edge + other[edge] * steps[1]
        for label, cost in enumerate(total):
            found = pair.take(at + label * steps[0])
            found[none] = 0
            cost += found
    return total.astype(np.float32)


def _least(held, pair) -> np.ndarray:
    """Least of held (L, E) + pair (L, M, E) over the first axis: (M, E)."""
    least = held[0] + pair[0]
    sums = np.empty_like(least)
    for one, cost in zip(held[1:], pair[1:]):
        np.add(one, cost, out=sums)
        np.minimum(least, sums, out=least)
    return least


def _damped(old, new, damping: float):
    new -= new.min(0)
    new *= 1 - damping
    new += damping * old
    return new
