"""The table, a row at a time: what each kind of file is (`text_tables`, `spreadsheets`), what a row is (`rows`), and which
inputs a column fills (`columns`). May import `workflow` and `sources`. A new kind of file begins in `rows`.
"""
