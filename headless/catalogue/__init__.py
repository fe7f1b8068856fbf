"""Ads for a whole catalogue: `pfv-catalogue`, over one or many ComfyUI servers. Imports neither torch nor the pack.

command       the command line
rows          CSV or JSONL, a row at a time
named_inputs  a workflow in API form, its inputs by node title
columns       which named inputs a column fills
safe_paths    a path of a catalogue stays in its folder
pictures      a product or a reference with its mask, as ComfyUI loads it
jobs          row x format x seed, and the hash that is a job's identity
ledger        what is done: manifest, pictures, what was under way
server        one ComfyUI: its HTTP API and its websocket
job_queue     jobs waiting, for whichever server is free
lane          one server's share of the work: retries, faults, other people's jobs
delivery      from downloaded images to a line of the manifest
job_index     which jobs were seen, on disk
run           rows in, lanes at work, ledger out
exactness     the product's pixels in the saved ad
checks        what is checked of every ad
cluster       the same jobs as tasks of a Dask cluster
progress      bars and the closing report
"""

__version__ = "0.3.0"
