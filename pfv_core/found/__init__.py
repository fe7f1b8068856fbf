"""What a picture shows, found without a model: a product, the line where the ground begins, plain depths; each says how sure.

`photo` and `reference` say what is taken of a picture, and who said so: a person, a model, or `product`. May import `masks`,
`ad.depth`, `ad.opacity`, `region` and, alone in the core, scipy, which every supported ComfyUI requires. A newcomer
changes here first: `product`, whose constants say what was measured.
"""
