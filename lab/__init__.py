"""What trains and measures, for engineers: nothing here runs in a host.

diffusers    PFV and MEPA in diffusers' U-Nets
train        trains adapters on them
evaluation   measures of pictures, and intervals over pairs and seeds
demo         a small stack: its scenes, its training, and what it shows of the papers' claims

May import `pfv_core` and the data of `pfv_demo`; of its own rooms `demo` may use all, `train` and `evaluation` may use
`diffusers`, and no circle is allowed. A newcomer changes here first: `demo.studio.scene`.
"""
