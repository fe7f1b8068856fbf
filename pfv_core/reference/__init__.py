"""A reference image to the encoder's visible tokens: fit, patch masks, masked encoding, and their files (Eq. 1, 2).

May import `choices` and this room. A newcomer changes here first: how an image lands on the patch grid (`fit`).
"""
