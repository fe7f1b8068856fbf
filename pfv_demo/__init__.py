"""A tiny SDXL-shaped stack that shows on a CPU, in seconds, what the big one does, and the scenes it was trained on.

scenes      seeded product scenes whose every truth is known: colours, masks, depth
captions    what a scene shows, in words
stack       the sizes of the tiny models, and building and loading them with diffusers
train_base  trains autoencoder, encoders, U-Net and depth ControlNet from scratch
weights/    what came out of it
"""
