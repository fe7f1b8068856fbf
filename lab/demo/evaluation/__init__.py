"""What the demo shows of the papers' claims, measured pair by pair on held-out scenes.

judge        a small classifier that reads the demo's scenes
ablations    one command that measures the paper's claims
layers       what each of the U-Net's cross-attentions carries of a reference, and when
report       HTML and JSON of what was measured
"""
