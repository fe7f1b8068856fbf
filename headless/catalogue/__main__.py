"""`python -m headless.catalogue`, the same as `pfv-catalogue`."""

from .command import app

app(prog_name="pfv-catalogue")
