"""Everything without a page: ComfyUI found, started and driven over its API; one ad, or a whole catalogue of them.

host        a ComfyUI on this machine: found, started, and the Python that runs it
server      the client of a ComfyUI server, wherever it is
pictures    the one door through which a picture comes in
ad          one ad, and a sheet that shows what made it
catalogue   an ad for every row of a table, over many servers

The commands are `python3 -m headless.make_ad`, `pfv-catalogue` (here also `python3 -m headless.catalogue`),
`python3 -m headless.run_tests`, `python3 -m headless.run_hosts` and `python3 -m headless.run_floors`. `host`, and the commands
until they have found or made an environment, import the standard library alone. `host`, `server` and `pictures` import nothing
of the other rooms.
"""
