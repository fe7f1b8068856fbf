"""Nodes that hide, encode, save and load a reference.

May import `host`, `pfv_core` and what lies beside the rooms. A newcomer changes here first: `encode_nodes`.
"""
