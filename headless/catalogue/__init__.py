"""Ads for a whole catalogue: `pfv-catalogue`, over one or many ComfyUI servers. Imports neither torch nor the pack's nodes.

The table
    rows            CSV, TSV, XLSX or JSONL, a row at a time (records, text_tables, spreadsheets: how each is read)
    columns         which inputs a column fills
What a job is
    named_inputs    a workflow in API form, its inputs by node title
    input_kinds     what each input takes, as a server says
    places          where pictures may come from (sources: their bytes; safe_paths: a path stays in its folder)
    pictures        a product or a reference with its mask, as it is uploaded
    jobs            row x format x seed, and the hash of what is posted: a job's identity
Making it
    servers         who works: named, or in a file that is read again
    job_queue       jobs waiting, for whichever server is free
    lane            one server's share of the work: retries, faults, other people's jobs
    checks          what is checked of every ad
    delivery        from downloaded images to a line of the manifest
    run             rows in, lanes at work, ledger out
What is left of it
    ledger          what is done: manifest, pictures, what was under way (job_index: which jobs were seen)
    copies          finished pictures at another place (mirror)
    sheet           all ads on one page
    command         the command line
    progress        bars, and the closing report

It may import `server` and `pfv_core.ad`; it is installed as `pfv_headless.catalogue`. A newcomer changes `checks` first.
"""

__version__ = "0.3.0"
