"""Tiny models with random weights in the architectures people have, for tests without downloads.

`models` builds them in code, `files` writes them in the layouts of real files, `adapter_files` writes image-prompt
adapters, and `host_pack` is a small custom node pack that lets the host's own loaders accept the tiny files.
"""
