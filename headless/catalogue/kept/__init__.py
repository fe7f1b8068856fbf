"""What is left of a run: the ledger, and copies of its pictures elsewhere. May import `job` and `sources`. What a line of the
manifest says of its checks is read in `lines`.
"""
