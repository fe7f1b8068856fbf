"""Trains adapters for the nodes, on diffusers and accelerate, with the mathematics of `pfv_core`."""
