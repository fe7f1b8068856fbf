"""`python -m headless.catalogue`, the same as `pfv-catalogue`."""

import sys

try:
    from .command import app
except ModuleNotFoundError as error:
    if __package__.startswith(str(error.name).partition(".")[0]):  # a part of this package, no other one
        raise
    sys.exit(
        f'the catalogue needs {error.name}: from the repository\'s folder, `python3 -m pip install ".[catalogue]"`'
    )

app(prog_name="pfv-catalogue")
