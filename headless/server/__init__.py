"""The client of a ComfyUI server, wherever it is: its HTTP API and its websocket. Imports nothing else of this repository."""
