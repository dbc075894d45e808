"""How similar vectors are, by the measures that sentence-transformers' files name.

Shapes: B vectors and K others, or B pairs of them; D numbers of a vector.
"""

from collections.abc import Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

Vectors = Tensor | NDArray[Any] | Sequence[Tensor] | Sequence[NDArray[Any]]
DISTANCES = {"euclidean": 2.0, "manhattan": 1.0}  # the power of their norms


def similarities(measure: str, first: Vectors, second: Vectors) -> Tensor:
    """The similarity of each vector to each of others: (B, D), (K, D) -> (B, K).

    measure: "cosine"; "dot", the product; or "euclidean" or "manhattan", minus the distance. One
    vector, (D,), counts as (1, D).
    """
    a, b = (torch.atleast_2d(comparable(measure, vectors)) for vectors in (first, second))
    if measure in DISTANCES:
        return -torch.cdist(a, b, DISTANCES[measure])  # (B, K)
    return a @ b.T  # (B, K)


def pair_similarities(measure: str, first: Vectors, second: Vectors) -> Tensor:
    """The similarity of the two vectors of each pair: (B, D), (B, D) -> (B,). See
    `similarities`."""
    a, b = comparable(measure, first), comparable(measure, second)
    if measure in DISTANCES:
        return -torch.linalg.vector_norm(a - b, DISTANCES[measure], -1)  # (B, D), (B, D) -> (B)
    return (a * b).sum(-1)  # (B, D), (B, D) -> (B)


def comparable(measure: str, vectors: Vectors) -> Tensor:
    """Vectors as one tensor of floats, of length 1 where cosines are asked for."""
    if isinstance(vectors, list | tuple):
        vectors = torch.stack([torch.as_tensor(vector) for vector in vectors])
    vectors = torch.as_tensor(vectors).to(torch.float32)
    return normalize(vectors, dim=-1) if measure == "cosine" else vectors
