"""A small SDXL-shaped stack that shows on a CPU, in seconds, what the big one does, and the scenes it was trained on.

studio       renders seeded product scenes whose every truth is known: colours, masks, labels, depth
scene_data   keeps the scenes that are trained on in a folder
captions     what a scene shows, in words
stack        building and loading the models with diffusers; their sizes and weights are in `pfv_demo`
train        trains autoencoder, encoders, U-Net and depth ControlNet from scratch
train_adapters   trains adapters on it; train_refadgen, train_strict_id the two neighbours' methods
evaluation   a judge, and the papers' claims on held-out scenes
"""
