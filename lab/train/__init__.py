"""Trains adapters, RefAdGen and Strictly-ID for the nodes, on diffusers and accelerate, with the mathematics of `pfv_core`; of
lab it may import `diffusers` and `files`. It knows SDXL and SD1.5; other models bring a `models.TrainingModels` of their own.

training           a run of anything: its data, caches, files and validations; what it trains and by which loss a subclass says
adapter_training   that of adapters; `starting_adapter`, `references`, `visibility`, `masks` and prompt_* are its parts
refadgen_training  that of RefAdGen, with `triplets`
strict_id_training that of Strictly-ID's ControlNet; strict_id_* are its parts, `scale` is read by its data
loop               steps that can be killed at any moment, with `schedule`, `state` and `losses`
models             what is frozen; `load` reads it from files, `noise` is its schedule
batches            what a step takes, of samples that `data` and its stores hold; `augment` changes references

A newcomer changes here first: `config`, every setting, with those of any run in `settings`.
"""
