"""Measures of any method's pictures.

metrics      numbers that need no trained network: palette, tint, leak, region, exactness
learned      numbers of public networks: FID, KID, IS, CLIP score, LPIPS; each says why where it cannot be computed
statistics   confidence intervals over pairs and seeds
page         pieces of self-contained HTML pages
"""
