"""One ad, from the command line to the sheet that shows what made it. `make_ad`, one floor up, finds the Python and begins here:
`plan` chooses engine and models, `pictures` writes what goes in, `engine` runs, `produce` reports. Another model of the shipped
workflow is named in `model_files`.
"""
