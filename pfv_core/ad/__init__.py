"""The product on an ad: canvas, placement, depth, shadow, paste-back, and what of it is exact.

May import `choices`, `region.distance` and this room. A newcomer changes here first: the ad formats in `formats`.
"""
