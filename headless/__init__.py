"""Everything from the command line: ComfyUI found, started and driven over its API, or diffusers in its place.

`python3 -m headless.make_ad` makes one ad and shows what made it; `python3 -m headless.run_tests` runs every test.
Both run on a bare Python: they import nothing but the standard library until they have found or made an environment.
"""
