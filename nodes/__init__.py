"""The ComfyUI side: schemas, layout and polarity conversion, and the binding to the host's model objects."""
