"""Nodes of the neighbouring papers: attention fusion, mask input, scale map.

May import `host`, `pfv_core` and what lies beside the rooms. A newcomer changes here first: `fusion_nodes`.
"""
