"""ComfyUI without a browser: find it, start it, drive it over its API, and test the pack in it.

`python3 -m headless.make_ad` makes one ad from photographs; `python3 -m headless.run_tests` runs every test.
Both run on a bare Python: they import nothing but the standard library until they have found or made an environment.
"""
