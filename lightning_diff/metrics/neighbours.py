"""Nearest neighbours by brute force, a block of rows of the distance matrix at a time."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from ..foundation import stopping

ROWS = 1024  # rows of a distance matrix held at once: with float64 and 50,000 columns, and what cdist needs, 1.2 GiB measured


def distance_rows(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"]) -> Iterator[tuple[int, Float[Tensor, "rows m"]]]:
    """The Euclidean distance matrix of a and b as (first row, block of rows) pairs."""
    for start in range(0, len(a), ROWS):
        stopping.check()
        yield start, torch.cdist(a[start : start + ROWS], b, compute_mode="use_mm_for_euclid_dist")


def neighbour_radii(a: Float[Tensor, "n d"], *ks: int) -> Float[Tensor, "ks n"]:
    """Distance of each point to its k-th nearest other point, for each k < n, by one pass over the distances."""
    column = torch.tensor(ks, device=a.device) - 1
    radii = []
    for start, rows in distance_rows(a, a):
        rows.diagonal(offset=start).fill_(torch.inf)  # a point is not its own neighbour
        radii.append(rows.topk(max(ks), dim=1, largest=False).values[:, column].T)  # kthvalue takes five times as long
    return torch.cat(radii, 1)


def nearest(a: Float[Tensor, "n d"], b: Float[Tensor, "m d"], k: int) -> Float[Tensor, "n k"]:
    """Distances of each point of a to its k nearest points of b, increasing; k <= m.

    Those k are measured again in float64 without the matrix product, whose rounding hides that a copy's distance is
    exactly zero.
    """
    found = []
    for start, rows in distance_rows(a, b):
        index = rows.topk(k, dim=1, largest=False).indices
        points = a[start : start + len(rows)].double()
        found.append(torch.stack([(points - b[column]).norm(dim=1) for column in index.T], dim=1))
    return torch.cat(found).sort(dim=1).values
