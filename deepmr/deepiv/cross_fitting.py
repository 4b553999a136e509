"""Which windows a network may be judged on: blocks of neighbours, folds of blocks, pairs of folds.

Neighbouring windows share bases, chromatin and the errors of the assay, so a fold and a cluster of
standard errors hold whole blocks of consecutive windows. Deep IV has two stages that are both
networks, so cross-fitting (Chernozhukov et al. 2018, Econometrics Journal 21:C1) leaves *two* folds
out: stage 1 is fitted once for every pair {j, k} of folds, on the others; stage 2 for fold k learns
from every fold j != k with what the fit without {j, k} says of j. Then nothing that judges a window
has seen its labels, neither directly nor through what stage 2 was trained on.
"""

from __future__ import annotations

from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Labels = NDArray[np.int64]

_FEWEST_FOLDS = 3


def blocks(chrom: ArrayLike, start: ArrayLike, number: int = 40) -> Labels:
    """Cut the windows of every chromosome into blocks of consecutive ones.

    A chromosome gets a share of the blocks in proportion to its windows, and at least one, so
    there are more blocks than `number` where there are more chromosomes.

    Parameters
    ----------
    chrom : array_like of str, shape (n,)
        Chromosome of each window; windows without one may share an invented name.
    start : array_like of int, shape (n,)
        First base of each window. Windows of one chromosome that start at the same base are in
        the same block.
    number : int
        How many blocks to aim at; at least 1.

    Returns
    -------
    ndarray of int64, shape (n,)
        Block of each window, 0 to G - 1, along the chromosomes; every block has a window. It does
        not depend on the order of the windows.

    Raises
    ------
    ValueError
        If shapes disagree, a window has no chromosome, or `number` is below 1.
    """
    names, first = np.asarray(chrom), np.asarray(start)
    if names.ndim != 1 or first.shape != names.shape:
        raise ValueError(
            "chrom and start must both have shape (n,), a value for each window; found "
            f"{names.shape} and {first.shape}"
        )
    if names.dtype == object:
        nameless = [row for row, name in enumerate(names) if not isinstance(name, str)]
        if nameless:
            raise ValueError(
                f"window {nameless[0]} has no chromosome ({names[nameless[0]]!r}); give windows "
                "without one a name of their own, such as ''"
            )
        names = names.astype(str)
    if number < 1:
        raise ValueError(f"the number of blocks must be at least 1, got {number}")
    chromosome, sizes = np.unique(names, return_inverse=True, return_counts=True)[1:]
    share = _shares(sizes, number)
    order = np.lexsort((first, chromosome))
    along, place = chromosome[order], np.arange(names.size)
    # Windows with one start take the place of the first of them.
    again = np.r_[False, (np.diff(along) == 0) & (np.diff(first[order]) == 0)]
    place = np.maximum.accumulate(np.where(again, 0, place))
    rank = place - (np.cumsum(sizes) - sizes)[along]
    labels = np.empty(names.size, dtype=np.int64)
    labels[order] = (np.cumsum(share) - share)[along] + rank * share[along] // sizes[along]
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)


def _shares(sizes: Labels, number: int) -> Labels:
    """Return how many blocks each chromosome gets: largest remainders, at least 1 each."""
    quota = number * sizes / sizes.sum() if sizes.size else np.zeros(0)
    share = np.maximum(np.floor(quota).astype(np.int64), 1)
    left = max(number - int(share.sum()), 0)
    share[np.argsort(share - quota, kind="stable")[:left]] += 1
    return np.minimum(share, sizes)


def folds(blocks: Labels, k: int, seed: int) -> Labels:
    """Deal whole blocks to folds of about equally many windows.

    Blocks in random order, the largest first, each to the fold that has the fewest windows so far;
    so folds differ by no more than the largest block.

    Parameters
    ----------
    blocks : ndarray of int64, shape (n,)
        Block of each window, from `blocks`.
    k : int
        Number of folds; at least 2.
    seed : int
        Decides which blocks come together.

    Returns
    -------
    ndarray of int64, shape (n,)
        Fold of each window, 0 to k - 1; every fold has a block.

    Raises
    ------
    ValueError
        If there are fewer blocks than folds, or fewer than 2 folds.
    """
    label, sizes = np.unique(blocks, return_inverse=True, return_counts=True)[1:]
    if k < 2:
        raise ValueError(f"cross-fitting needs at least 2 folds, got {k}")
    if sizes.size < k:
        raise ValueError(
            f"{sizes.size} blocks of windows cannot make {k} folds; cut more blocks or ask for "
            "fewer folds"
        )
    shuffled = np.random.default_rng(seed).permutation(sizes.size)
    order = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    fold = np.empty(sizes.size, dtype=np.int64)
    filled = np.zeros(k, dtype=np.int64)
    for block in order:
        fold[block] = filled.argmin()
        filled[fold[block]] += sizes[block]
    return fold[label]


def pairs_of_folds(k: int) -> list[tuple[int, int]]:
    """Return the k (k - 1)/2 pairs (j, i), j < i, of folds that stage 1 is fitted without.

    Raises
    ------
    ValueError
        If there are fewer than 3 folds: none would be left to fit on.
    """
    if k < _FEWEST_FOLDS:
        raise ValueError(
            f"leaving two folds out needs at least {_FEWEST_FOLDS} folds, got {k}; none would be "
            "left to fit stage 1 on"
        )
    return list(combinations(range(k), 2))
