"""Ads for a whole catalogue: `pfv-catalogue`, over one or many ComfyUI servers. Imports neither torch nor the pack's nodes.

table       CSV, TSV, XLSX or JSONL, a row at a time, and which inputs a column fills
sources     where pictures may come from
workflow    a workflow in API form: its inputs by node title, and what each takes
job         row x format x seed with its pictures, known by what is posted
work        jobs over servers, and what is checked of every ad
kept        the ledger, and copies elsewhere
sheet       all ads on one page
command     the command line
progress    bars, and the closing report

It may import `server`, `pictures` and `pfv_core.ad`; it is installed as `pfv_headless.catalogue`. A newcomer changes
`work.checks` first.
"""

__version__ = "0.3.0"
