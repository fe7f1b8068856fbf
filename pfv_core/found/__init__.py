"""What a picture shows, found without a model: a product, the line where the ground begins, plain depths; each says how sure.

May import `ad.depth`, `ad.opacity`, `region` and, alone in the core, scipy, which every supported ComfyUI requires. A newcomer
changes here first: `product`, whose constants say what was measured.
"""
