"""A product studio by ray marching, on torch alone: the scenes that the demo is trained on and measured with.

scene      what a scene shows: choices and numbers, drawn from a seed
shapes     signed distances of products and companions
surfaces   colours and gloss of what a ray meets
bodies     what stands in a scene, where, and how it is turned
camera     rays through pixels, and what they meet
light      shading: key light with soft shadows, sky, mirrored surroundings
render     pictures with every truth: whose pixel it is, depth, label
beside     of a product a packshot, of a companion its rows and its pose

Everything is computed from formulas; no picture of anybody's goes in. May import torch and `lab.demo.splits`. A newcomer
changes here first: `scene`, for what can be shown, and `surfaces`, for how it looks.
"""
