"""The node that gives the pack's own tiny trained models.

May import `host` and `pfv_demo`. A newcomer changes here first: `demo_nodes`.
"""
