"""Parts of the two neighbouring papers that are neither attention nor compositing: mask input, scale map.

May import nothing of the core. A newcomer changes here first: what a file must hold (`mask_input`).
"""
