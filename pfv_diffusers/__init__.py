"""PFV and MEPA in diffusers' U-Nets: what training, evaluation and the demo run on.

`pfv_core` holds the mathematics; nothing here knows a host or a training loop.

    unet    image prompts in every cross-attention of a UNet2DConditionModel, and adapters made to its measure
    vision  a transformers CLIP vision model as the core's VisionEncoder: masked encoding of references
    sample  latents from noise, with text guidance, image prompts and a depth ControlNet
"""
