"""What it costs, measured against the unpatched model and against other packs: `python -m benchmarks --help`.

One module for each figure; `full_size`, `compression`, `train_step`, `refadgen` and `strict_id` are commands of their own.
Nothing here is a test.
"""
