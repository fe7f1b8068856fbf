"""What a job is: its pictures as they are uploaded (`pictures`), and row x format x seed with the hash of what is posted
(`jobs`). May import `workflow`, `table` and `sources`. What makes two jobs one is `jobs.identity`.
"""
