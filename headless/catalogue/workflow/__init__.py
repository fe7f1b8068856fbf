"""A workflow in ComfyUI's API form: its inputs by node title (`named_inputs`), and what each takes (`input_kinds`). Imports
nothing of the other rooms but `sources.safe_paths`. What a server says of its nodes is read in `input_kinds`.
"""
