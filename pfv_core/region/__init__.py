"""Masks of the frame: regions drawn, grown, shared, and drawn for people.

May import `choices`, `attention.query_mask` and this room. A newcomer changes here first: the shapes in `regions`.
"""
