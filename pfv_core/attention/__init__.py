"""Text and image prompts in one cross-attention (Eq. 3 to 6), and a reference's keys and values in self-attention.

May import `choices`, `layers` and this room. A newcomer changes here first: the formula at the head of `formula`, which `general`
computes plainly and `formula` fast. How strongly a prompt counts in a layer and at a moment is decided before it, in `weights`.
"""
