"""Partitions of a labelled data set over simulated clients."""

from __future__ import annotations

import numpy as np


def dirichlet(
    labels: np.ndarray, *, num_clients: int, concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deals examples by label distributions drawn from a Dirichlet distribution.

    Each client draws its label distribution from Dirichlet(concentration) over the labels, then
    its examples one by one without replacement; a label that has run out is drawn no more
    (Hsu et al. 2019, https://arxiv.org/abs/1909.06335, section 3).

    Args:
        labels: int[n].
        num_clients: Number of clients; each gets n // num_clients examples.
        concentration: Positive; small values give clients of few labels.
        rng: Source of randomness.

    Returns:
        Rows of each client, disjoint.
    """
    classes = np.unique(labels)
    pools = [list(rng.permutation(np.flatnonzero(labels == label))) for label in classes]
    clients = []
    for _ in range(num_clients):
        wish = rng.dirichlet(np.full(len(classes), concentration))
        rows = []
        for _ in range(len(labels) // num_clients):
            left = np.array([bool(pool) for pool in pools])
            chances = np.where(left, wish, 0.0)
            # A client whose labels have all run out takes what is left.
            chances = chances if chances.sum() > 0 else left.astype(float)
            rows.append(pools[rng.choice(len(classes), p=chances / chances.sum())].pop())
        clients.append(np.array(rows))
    return clients


def iid(
    labels: np.ndarray, *, num_clients: int, concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Deals shuffled examples evenly (McMahan et al. 2017, section 3). See `dirichlet`."""
    del concentration
    return np.array_split(rng.permutation(len(labels)), num_clients)


def shards(
    labels: np.ndarray, *, num_clients: int, concentration: float, rng: np.random.Generator
) -> list[np.ndarray]:
    """Sorts examples by label, cuts them into shards and deals each client two of them.

    The pathological partition of McMahan et al. 2017, section 3: most clients see two labels.
    See `dirichlet` for arguments and result.
    """
    del concentration
    order = rng.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    pieces = np.array_split(order, 2 * num_clients)
    deal = rng.permutation(2 * num_clients)
    return [
        np.concatenate([pieces[deal[2 * k]], pieces[deal[2 * k + 1]]]) for k in range(num_clients)
    ]


PARTITIONS = {"dirichlet": dirichlet, "iid": iid, "shards": shards}
