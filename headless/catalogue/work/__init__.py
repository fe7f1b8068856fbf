"""Making it: jobs over servers (`run`, `job_queue`, `lane`, `servers`), and what is checked of every ad (`checks`,
`delivery`). May import all rooms but `sheet`. A further check begins in `checks`.
"""
