"""A workflow in ComfyUI's API form: its inputs by node title (`named_inputs`), what each takes (`input_kinds`), and what becomes
of a picture (`picture_uses`). Imports nothing of the other rooms but `sources.safe_paths`. Another node that takes a product's
mask is named in `picture_uses`.
"""
