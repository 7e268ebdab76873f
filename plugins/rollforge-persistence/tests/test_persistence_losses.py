"""The losses against sums that are written out number by number, in float64; the schedules at their ends."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from rollforge_persistence.base import follow, momentum, rate
from rollforge_persistence.byol import minus_cosine
from rollforge_persistence.moco import MoCo, info_nce
from rollforge_persistence.simclr import nt_xent
from rollforge_persistence.swav import sinkhorn, swapped
from torch import Tensor
from torch.nn import functional

BATCH, OUT = 5, 3


def unit(count: int, rows: int = BATCH, seed: int = 0) -> list[Tensor]:
    drawn = torch.randn(count, rows, OUT, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [*functional.normalize(drawn, dim=2)]


def dot(one: Tensor, other: Tensor) -> float:
    return sum(a * b for a, b in zip(one.tolist(), other.tolist(), strict=True))


@pytest.mark.parametrize("rho", [2, 4])
def test_info_nce_is_one_softmax_for_each_positive_against_the_queue(rho: int) -> None:
    queries, keys, (queue,) = unit(rho, seed=1), unit(rho, seed=2), unit(1, 7, seed=3)
    terms = []
    for q, k, n in product(range(rho), range(rho), range(BATCH)):
        if q != k:
            positive = math.exp(dot(queries[q][n], keys[k][n]) / 0.1)
            negative = sum(math.exp(dot(queries[q][n], old) / 0.1) for old in queue)
            terms.append(-math.log(positive / (positive + negative)))
    assert info_nce(queries, keys, queue, 0.1).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def test_byol_is_minus_the_cosine_to_every_other_key() -> None:
    predictions, keys = [3 * each for each in unit(3, seed=1)], [0.5 * each for each in unit(3, seed=2)]
    terms = [
        -dot(predictions[q][n], keys[k][n]) / 1.5 for q, k, n in product(range(3), range(3), range(BATCH)) if q != k
    ]
    assert minus_cosine(predictions, keys).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.parametrize("rho", [2, 4])
def test_simclr_pairs_neighbours_against_the_rest_of_the_batch(rho: int) -> None:
    views, terms = unit(rho), []
    for k in range(rho - 1):
        both = [*views[k], *views[k + 1]]
        for n in range(2 * BATCH):
            scores = {m: math.exp(dot(both[n], both[m]) / 0.1) for m in range(2 * BATCH) if m != n}
            terms.append(-math.log(scores[(n + BATCH) % (2 * BATCH)] / sum(scores.values())))
    assert nt_xent(views, 0.1).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


def assigned(cosines: Tensor, epsilon: float, iterations: int) -> list[list[float]]:
    """Sinkhorn by dividing columns, then rows, of a matrix of numbers."""
    rows = [[math.exp(each / epsilon) for each in row] for row in cosines.tolist()]
    batch, prototypes = len(rows), len(rows[0])
    for _ in range(iterations):
        totals = [sum(row[k] for row in rows) * prototypes / batch for k in range(prototypes)]
        rows = [[each / totals[k] for k, each in enumerate(row)] for row in rows]
        rows = [[each / sum(row) for each in row] for row in rows]
    return rows


def test_swav_is_the_divergence_from_the_neighbours_assignment() -> None:
    cosines, terms = [each.clone() for each in unit(3)], []
    for of, by in ((0, 1), (1, 0), (1, 2), (2, 1)):
        target = assigned(cosines[of], 0.05, 3)
        for n in range(BATCH):
            total = sum(math.exp(each / 0.1) for each in cosines[by][n].tolist())
            for k in range(OUT):
                predicted = math.exp(cosines[by][n, k].item() / 0.1) / total
                terms.append(target[n][k] * math.log(target[n][k] / predicted))
    assert swapped(cosines, 0.1, 0.05, 3).item() == pytest.approx(sum(terms) / (4 * BATCH), rel=1e-10)


def test_sinkhorn_gives_each_prototype_the_same_share_of_the_batch() -> None:
    (cosines,) = unit(1, 12)
    found = sinkhorn(cosines, 0.5, 100)
    assert torch.allclose(found.sum(1), torch.ones(12, dtype=torch.float64))
    assert torch.allclose(found.sum(0), torch.full((OUT,), 12 / OUT, dtype=torch.float64), rtol=1e-6)
    assert torch.allclose(sinkhorn(cosines, 0.05, 3), torch.tensor(assigned(cosines, 0.05, 3), dtype=torch.float64))


def test_schedules_have_their_ends() -> None:
    assert momentum(0, 100, 0.994) == pytest.approx(0.994)
    assert momentum(50, 100, 0.994) == pytest.approx(0.997)
    assert momentum(100, 100, 0.994) == 1.0
    assert rate(0, 100, 0.1) < rate(9, 100, 0.1) < rate(10, 100, 0.1) == 1.0
    assert rate(55, 100, 0.1) == pytest.approx(0.5)
    assert rate(100, 100, 0.1) == pytest.approx(0, abs=1e-12)


def test_the_slow_copy_moves_by_what_is_not_kept() -> None:
    slow, fast = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(slow.weight, 1.0)
    torch.nn.init.constant_(fast.weight, 2.0)
    follow(slow, fast, 0.75)
    assert slow.weight.item() == pytest.approx(1.25)


def test_the_queue_replaces_its_oldest_keys() -> None:
    module = MoCo(width=16, hidden=4, out=2, queue=3)
    module.enqueue(torch.tensor([[1.0, 0.0], [2.0, 0.0]]))
    module.enqueue(torch.tensor([[3.0, 0.0], [4.0, 0.0]]))
    assert module.queue[:, 0].tolist() == [4.0, 2.0, 3.0]
