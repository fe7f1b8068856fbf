"""Where the U-Nets of the SDXL and SD1.5 families have cross-attention, in the terms of the host's U-Net constructor.

The numbers are those of the released models but for one that is made for tests; only widths are made tiny elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

NO_MIDDLE_ATTENTION = -1  # the host's value for a middle block without a transformer
NO_MIDDLE_BLOCK = -2  # the host's value for no middle block at all


@dataclass(frozen=True)
class Topology:
    """One U-Net's plan.

    Attributes:
        channel_mult: width of each level as a multiple of the base width.
        num_res_blocks: residual blocks of each level.
        transformer_depth: transformer blocks after each residual block of the input side, in running order.
        transformer_depth_middle: transformer blocks in the middle, or one of the two constants of this module.
        transformer_depth_output: the same for the output side, one more per level, first level first (the host reads
            it from the end).
        sdxl_family: True = linear projections, pooled text and size as extra condition; False = SD1.5.
    """

    channel_mult: tuple[int, ...]
    num_res_blocks: tuple[int, ...]
    transformer_depth: tuple[int, ...]
    transformer_depth_middle: int
    transformer_depth_output: tuple[int, ...]
    sdxl_family: bool = True

    @property
    def num_cross_attentions(self) -> int:
        """Number of transformer blocks, each with one cross-attention."""
        return sum(self.transformer_depth) + max(self.transformer_depth_middle, 0) + sum(self.transformer_depth_output)


TOPOLOGIES = {
    "sdxl": Topology((1, 2, 4), (2, 2, 2), (0, 0, 2, 2, 10, 10), 10, (0, 0, 0, 2, 2, 2, 10, 10, 10)),
    "ssd1b": Topology((1, 2, 4), (2, 2, 2), (0, 0, 2, 2, 4, 4), NO_MIDDLE_ATTENTION, (0, 0, 0, 1, 1, 2, 10, 4, 4)),
    "vega": Topology((1, 2, 4), (2, 2, 2), (0, 0, 1, 1, 2, 2), NO_MIDDLE_ATTENTION, (0, 0, 0, 1, 1, 1, 2, 2, 2)),
    "koala700m": Topology((1, 2, 4), (1, 1, 1), (0, 2, 5), NO_MIDDLE_BLOCK, (0, 0, 2, 2, 5, 5)),
    "koala1b": Topology((1, 2, 4), (1, 1, 1), (0, 2, 6), 6, (0, 0, 2, 2, 6, 6)),
    "sd15": Topology(
        (1, 2, 4, 4),
        (2, 2, 2, 2),
        (1, 1, 1, 1, 1, 1, 0, 0),
        1,
        (1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0),
        sdxl_family=False,
    ),
    # Of no released model: SDXL's levels with attention on two grids, two blocks in one transformer, and little else.
    "few": Topology((1, 2, 4), (0, 0, 1), (2,), NO_MIDDLE_BLOCK, (0, 1, 0, 0)),
}
