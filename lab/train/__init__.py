"""Trains adapters for the nodes, on diffusers and accelerate, with the mathematics of `pfv_core`; of lab it may import
`diffusers` and `files`. It knows SDXL and SD1.5; other models bring a `models.TrainingModels` of their own.

adapter_training   a run: its batches, its loss, its files; `starting_adapter`, `references` and `noise` are its parts
loop               steps that can be killed at any moment, with `schedule`, `state` and `losses`
models             what is frozen; `load` reads it from files
batches            what a step takes; `rows`, `visibility`, `masks` and `augment` make it, `data` and its stores hold it

A newcomer changes here first: `config`, every setting.
"""
