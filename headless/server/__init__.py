"""The client of a ComfyUI server, wherever it is. Imports nothing else of this repository, and aiohttp only when it talks.

address    where a server is, and the headers and the proxy that lead to it
client     one server, asynchronously: queue, upload, submit, wait, download
blocking   the same client for scripts that do not await
wire       a request, its tries and what an answer means that is none; the websocket
outcome    what the history says of a run
errors     everything that can go wrong, and how a server's words are made safe
"""
