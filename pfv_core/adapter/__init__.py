"""The trained modules between an encoder's tokens and a cross-attention, and their files.

May import `choices`, `layers`, `attention.unet_layout` and `reference.vit`. A newcomer changes here first: `token_compress`.
"""
