"""Measures of any method's pictures.

metrics      numbers that need no trained network: palette, tint, leak, region, sharpness
rim          the surroundings of a product against what should be there: ring, halo
statistics   confidence intervals over pairs and seeds
"""
