"""All that knows the host's inside: its attention slots, the facts of a run, models, memory and files.

May import `pfv_core` and this room; nothing else knows its hooks. A newcomer reads `tracking` and `facts` first: every patch
stands on them.
"""
