"""From scores to counts: bins that follow the scores for pixels, exact counts for images."""

import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int32, Int64
from torch import Tensor, nn

NUM_BINS = 2**18
"""Bins per category. The three rows of counts in `PixelMetrics` take 6 MiB."""

CELL_BITS = 13
"""A cell is 8,192 neighbouring float32 values; between a number and its double lie 1,024 cells."""

ONE_HALF = 0x3F00_0000
"""The bit pattern of float32 0.5."""

NUM_CELLS = (2 * ONE_HALF >> CELL_BITS) + 1
"""258,049, which is below `NUM_BINS`: even if every cell is open, each has a bin."""

CROWDED = 256
"""A bin is crowded if it holds more than 1/256 of all pixels."""

MOST_CROWDED = 16
"""So many crowded cells may keep all of their 8,192 bins, which together are half of all bins."""

MANTISSA_BITS = 23

SPARSE_EXPONENT = 113
"""The biased exponent of 2 ** -14: where 1 - score is below twice that, a cell holds at most one score."""

SHIFT_BITS = 4
"""An address has the cell's first bin above these bits, and in them how many bits of a rank to drop: one look-up."""

CLOSED = -1
"""The address and the bits of a cell without bins."""


def check_probabilities(name: str, score: Float[Tensor, "*shape"]) -> None:
    """Raise a ``ValueError`` that names the scores if one is NaN or lies outside [0, 1].

    Curves need one common scale: a score outside [0, 1] has no bin, and NaN has no rank.
    """
    if score.numel() == 0:
        return
    low, high = (bound.item() for bound in torch.aminmax(score))  # either bound is NaN if any score is
    if not (low >= 0 and high <= 1):
        msg = (
            f"{name} must hold probabilities in [0, 1], got values from {low} to {high}. "
            "Apply a sigmoid or softmax to logits, and look for NaN in the model's output."
        )
        raise ValueError(msg)


def score_rank(score: Float32[Tensor, "*shape"]) -> Int32[Tensor, "*shape"]:
    """Number the float32 probabilities in ascending order; equal scores, and no others, have equal ranks.

    Below one half the rank is the bit pattern; above, it counts down with the pattern of ``1 - score``, which is exact
    there. Equal steps of the rank are therefore about equal steps of the logit at both ends. Nothing is rounded, so the
    rank is the same on every device.

    Example:
        >>> score_rank(torch.tensor([0.0, 1e-45, 0.5, 1.0]))
        tensor([         0,          1, 1056964608, 2113929216], dtype=torch.int32)
    """
    to_end = torch.minimum(score, 1 - score).abs()  # abs: -0.0 is 0.0
    pattern = to_end.view(torch.int32)
    return torch.where(score < 0.5, pattern, 2 * ONE_HALF - pattern)


def score_of_rank(rank: Int64[Tensor, "*shape"]) -> Float64[Tensor, "*shape"]:
    """Return the score of a rank, in float64.

    Example:
        >>> score_of_rank(score_rank(torch.tensor([0.0, 0.25, 0.75, 1.0])).long())
        tensor([0.0000, 0.2500, 0.7500, 1.0000], dtype=torch.float64)
    """
    to_end = torch.minimum(rank, 2 * ONE_HALF - rank).int().view(torch.float32).double()
    return torch.where(rank < ONE_HALF, to_end, 1 - to_end)


def rank_below(threshold: Float64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """Return the highest rank whose score is not above a threshold in [0, 1].

    Example:
        >>> rank_below(torch.tensor([0.0, 0.75 + 1e-9], dtype=torch.float64)) == score_rank(torch.tensor([0.0, 0.75]))
        tensor([True, True])
    """
    nearest = score_rank(threshold.float()).long()
    return nearest - (threshold.float().double() > threshold).long()


class ScoreBins(nn.Module):
    """Bins that follow the scores, as fine as `NUM_BINS` allows.

    A fixed grid over [0, 1] would tie most scores of a map that saturates, or that spans a thousandth of the interval.
    Here every float32 probability has a rank (`score_rank`), and `2 ** CELL_BITS` neighbouring ranks are a cell:

    - A cell is open, that is, has bins, once a score has fallen into it.
    - All open cells have the same number of bins, ``2 ** common_bits``. At first that is a bin for every float32 value.
    - When the bins of a new cell do not fit, ``common_bits`` falls, and the counts of neighbouring bins are added up.

    Near 1 a cell holds fewer float32 values than ranks, and has no more bins than values. Which bins there are depends
    only on which cells are open, not on the order in which they were opened.

    Crowded bins, which would hold more than 1/256 of all pixels, are the exception. Their cell keeps a bin for every
    float32 value, unless it has lost them already. A map whose background lies within 1e-5 of one score while its
    defects spread widely needs this. Whether a cell is crowded before its bins are added up may depend on the order of
    the images and on how they are spread over processes, which keep only the bins that all of them still have.

    This module knows where each score is counted. The counts belong to the caller, who must move them when
    ``make_room`` or ``rebuild`` says so.

    Attributes:
        address: First bin of each cell, and how many bits of a rank it drops; see `SHIFT_BITS`.
        bits: Bins of each cell, as a power of two; `CLOSED` where it has none.
        most_bits: Float32 values of each cell, as a power of two.
        num_used: Bins in use, which are the first ones.
        is_ascending: Whether the order of the bins is that of their scores; new cells come last until ``rebuild``.

    Example:
        >>> bins = ScoreBins()
        >>> rank = score_rank(torch.tensor([0.3, 0.9]))
        >>> _ = bins.make_room(rank, torch.zeros(NUM_BINS, dtype=torch.int64))
        >>> bins(rank)
        tensor([6554, 8806], dtype=torch.int32)
    """

    def __init__(self) -> None:
        super().__init__()
        self.address: Tensor
        self.bits: Tensor
        self.most_bits: Tensor
        self.register_buffer("address", torch.full((NUM_CELLS,), CLOSED, dtype=torch.int32), persistent=False)
        self.register_buffer("bits", torch.full((NUM_CELLS,), CLOSED, dtype=torch.int32), persistent=False)
        # Scores above one half are multiples of 2 ** -24: each factor of two nearer to 1 has half as many in a cell.
        first = torch.arange(NUM_CELLS) << CELL_BITS
        exponent = (2 * ONE_HALF - first - 1) >> MANTISSA_BITS
        sparse = (exponent - SPARSE_EXPONENT).clamp(0, CELL_BITS)
        most_bits = torch.where(first < ONE_HALF, CELL_BITS, sparse).int()
        self.register_buffer("most_bits", most_bits, persistent=False)
        self.reset()

    def reset(self) -> None:
        """Close all cells."""
        self.address.fill_(CLOSED)
        self.bits.fill_(CLOSED)
        self.num_used = 0
        self.common_bits = CELL_BITS
        self.is_ascending = True

    def forward(self, rank: Int32[Tensor, " pixels"]) -> Int32[Tensor, " pixels"]:
        """Return the bin of each rank, or -1 where its cell is closed."""
        address = self.address.index_select(0, rank >> CELL_BITS)
        within = (rank & (2**CELL_BITS - 1)) >> (address & (2**SHIFT_BITS - 1))
        return (address >> SHIFT_BITS) + within  # -1 + 0 where it is closed

    def make_room(self, rank: Int32[Tensor, " new"], counts: Int64[Tensor, " bins"]) -> Int64[Tensor, " bins"] | None:
        """Open the closed cells that ranks lie in.

        Args:
            counts: Pixels counted so far in each bin.

        Returns:
            The new bin of each of the old ones, or ``None`` if all stay where they are.
        """
        new, in_new = (rank >> CELL_BITS).unique(return_counts=True)
        bits = self.most_bits[new].clamp(max=self.common_bits)
        has_space = self.num_used + (1 << bits.long()).sum() <= NUM_BINS
        if has_space and in_new.max() * CROWDED <= (counts.sum() + in_new.sum()) << self.common_bits:
            self._open(new, bits)
            return None
        bits = self.bits.clone()
        bits[new] = self.most_bits[new]  # nothing has been added up there yet
        in_cell = self.pixels_per_cell(counts).index_add_(0, new, in_new)
        return self.rebuild(self.fitting_bits(bits, in_cell))

    def fitting_bits(self, bits: Int32[Tensor, " cells"], in_cell: Int64[Tensor, " cells"]) -> Int32[Tensor, " cells"]:
        """Choose the largest ``common_bits`` for which all bins fit, and return the bits of each cell.

        Args:
            bits: The most bins that each cell can have, as a power of two: bins that were added up stay so.
            in_cell: Pixels in each cell.
        """
        cells = (bits >= 0).nonzero().flatten()
        most_bits, pixels = bits[cells], in_cell[cells]
        # The first cell is never crowded: apart from numbers below 1e-41 it holds only 0.0, which one bin resolves.
        fullest = (pixels * (cells > 0)).topk(min(MOST_CROWDED, len(pixels)))
        for common in range(self.common_bits, -1, -1):
            fitting = most_bits.clamp(max=common)
            crowded = fullest.indices[fullest.values * CROWDED > pixels.sum() << common]
            fitting[crowded] = most_bits[crowded]
            if (1 << fitting.long()).sum() <= NUM_BINS:
                break
        else:  # one bin for each cell always fits
            fitting = most_bits.clamp(max=0)
        self.common_bits = common
        return bits.index_copy(0, cells, fitting)

    def rebuild(self, bits: Int32[Tensor, " cells"]) -> Int64[Tensor, " bins"]:
        """Put the bins in ascending order of their scores.

        Args:
            bits: The new bits of each cell, which may only be lower for cells that are open.

        Returns:
            The new bin of each of the old ones.
        """
        cell, within = self._cell_of_bin()
        lost = (self.bits - bits).index_select(0, cell)
        self.bits.fill_(CLOSED)
        self.address.fill_(CLOSED)
        self.num_used = 0
        cells = (bits >= 0).nonzero().flatten()
        self._open(cells, bits[cells])
        self.is_ascending = True
        moves = torch.full((NUM_BINS,), NUM_BINS - 1, device=bits.device)  # bins not in use hold nothing
        moves[: len(cell)] = (self.address.index_select(0, cell) >> SHIFT_BITS) + (within >> lost)
        return moves

    def layout(self, counts: Int64[Tensor, " bins"]) -> tuple[Int32[Tensor, " cells_and_one"], Int64[Tensor, " cells"]]:
        """Describe the bins, so that those of several processes or metrics can become the same.

        Returns:
            The bits of each cell (`CELL_BITS` + 1 where it is closed) followed by ``common_bits``, of which the minimum
            over all is taken; and the pixels of each cell, which are added up.
        """
        bits = torch.where(self.bits == CLOSED, CELL_BITS + 1, self.bits)
        return torch.cat([bits, bits.new_tensor([self.common_bits])]), self.pixels_per_cell(counts)

    def adopt(
        self, lowest_bits: Int32[Tensor, " cells_and_one"], in_cell: Int64[Tensor, " cells"]
    ) -> Int64[Tensor, " bins"]:
        """Take over what several layouts have in common.

        Returns:
            The new bin of each of the old ones.
        """
        bits = torch.where(lowest_bits > CELL_BITS, CLOSED, lowest_bits)
        self.common_bits = int(bits[-1])
        return self.rebuild(self.fitting_bits(bits[:-1], in_cell))

    def pixels_per_cell(self, counts: Int64[Tensor, " bins"]) -> Int64[Tensor, " cells"]:
        """Add up the bins of each cell."""
        cell, _ = self._cell_of_bin()
        return counts.new_zeros(NUM_CELLS).index_add_(0, cell, counts[: len(cell)])

    def lowest_rank(self) -> Int64[Tensor, " bins"]:
        """Return the lowest rank of each bin in use."""
        cell, within = self._cell_of_bin()
        return (cell << CELL_BITS) + (within << (CELL_BITS - self.bits.index_select(0, cell)))

    def share_above(
        self, weight: Int64[Tensor, " bins"], threshold: Float64[Tensor, " thresholds"]
    ) -> Float64[Tensor, " thresholds"]:
        """Return the share of a weight that lies above each threshold; the bins must be in ascending order.

        In the bin that a threshold falls into, the weight is spread evenly over the float32 values.
        """
        lowest = self.lowest_rank()
        highest = rank_below(threshold)
        place = (torch.searchsorted(lowest, highest, right=True) - 1).clamp(min=0)
        cell = lowest[place] >> CELL_BITS
        num_scores = 1 << (self.most_bits - self.bits).long()[cell]
        not_above = ((highest - lowest[place]) >> (CELL_BITS - self.most_bits.long())[cell]) + 1
        above_in_bin = (1 - not_above / num_scores.double()).clamp(0, 1) * weight[place]
        above = weight.sum() - weight.cumsum(0)[place]
        return (above + above_in_bin) / weight.sum()

    def _open(self, cells: Int[Tensor, " new"], bits: Int32[Tensor, " new"]) -> None:
        size = 1 << bits.long()
        first = self.num_used + size.cumsum(0) - size
        self.bits[cells] = bits
        self.address[cells] = (first.int() << SHIFT_BITS) + CELL_BITS - bits
        self.num_used += int(size.sum())
        self.is_ascending = False

    def _cell_of_bin(self) -> tuple[Int64[Tensor, " bins"], Int64[Tensor, " bins"]]:
        """Return the cell of each bin in use, and the bin's place within the cell."""
        cells = (self.bits >= 0).nonzero().flatten()
        cells = cells[self.address[cells].argsort()]
        cell = cells.repeat_interleave(1 << self.bits[cells].long())
        first = self.address.index_select(0, cell) >> SHIFT_BITS
        return cell, torch.arange(len(cell), device=cell.device) - first


def counts_by_score(
    score: Float[Tensor, " samples"], is_positive: Bool[Tensor, " samples"]
) -> tuple[Int64[Tensor, " distinct"], Int64[Tensor, " distinct"]]:
    """Count negatives and positives at each distinct score, lowest score first; for small samples such as images.

    Raises:
        ValueError: If a score is NaN or lies outside [0, 1].

    Example:
        >>> counts_by_score(torch.tensor([0.7, 0.2, 0.7]), torch.tensor([True, False, False]))
        (tensor([1, 1]), tensor([0, 1]))
    """
    check_probabilities("score", score)
    distinct, rank = score.unique(sorted=True, return_inverse=True)
    total = torch.bincount(rank, minlength=len(distinct))
    positives = torch.bincount(rank[is_positive], minlength=len(distinct))
    return total - positives, positives
