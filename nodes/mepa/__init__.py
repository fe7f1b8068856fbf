"""Nodes that put image prompts into the cross-attention, and those that make their regions.

May import `host`, `pfv_core` and what lies beside the rooms. A newcomer changes here first: `apply_nodes`.
"""
