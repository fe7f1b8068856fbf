"""All that knows the host's inside: its attention slots, the facts of a run, models, memory and files.

May import `pfv_core` and this room; nothing else imports `comfy`. A newcomer reads `facts` first: every patch stands on it.
"""
