"""A ComfyUI on this machine: where it lies (`find`), the Python that runs it (`environment`), a server of it (`start`), or it in
this process (`boot`). Standard library only: it runs before anything is installed. Another place to look belongs into `find`.
"""
