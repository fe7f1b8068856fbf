"""Measures all that docs/neighbours.md says of RefAdGen, of Strictly-ID and of all three in one sampling, one after the other.

    python -m lab.demo.evaluation.measure_neighbours --models FOLDER --out FOLDER [--begin FILE] [--pairs 100] [--many 500]
        [--development 40] [--weights FOLDER] [--judge FILE] [--steps 12] [--batch 20] [--precision bfloat16]
        [--report-only | --count]

The options are those of `neighbour_refadgen`, `neighbour_strict_id` and `neighbours_together`, see there; it goes on as they do.
"""

from __future__ import annotations

from collections.abc import Sequence

from . import neighbour_refadgen, neighbour_strict_id, neighbours_together
from .neighbours import run_plans

PLANS = (neighbour_refadgen.PLAN, neighbour_strict_id.PLAN, neighbours_together.PLAN)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and write the pages."""
    run_plans(PLANS, __doc__, arguments)


if __name__ == "__main__":
    main()
