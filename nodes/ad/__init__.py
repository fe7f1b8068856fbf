"""Nodes that place the product on an ad's canvas and put its pixels back.

May import `host`, `pfv_core` and what lies beside the rooms. A newcomer changes here first: `product_nodes`.
"""
