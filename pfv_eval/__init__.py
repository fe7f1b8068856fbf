"""Measuring what an adapter does: metrics, a judge of images, ablations on held-out scenes, reports and blind votes.

metrics      numbers that need no trained network: palette, tint, leak, region, exactness
learned      numbers of public networks: FID, KID, IS, CLIP score, LPIPS; each says why where it cannot be computed
statistics   confidence intervals over pairs and seeds
judge        a small classifier that reads the demo's scenes
ablations    one command that measures the paper's claims on the demo stack, pair by pair
layers       what each of its cross-attentions carries of a reference, and when
report       HTML and JSON of what was measured
vote         a page for a blind human vote, and its count
"""
