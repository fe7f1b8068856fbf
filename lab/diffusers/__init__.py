"""PFV and MEPA in diffusers' U-Nets: what training, evaluation and the demo run on.

`pfv_core` holds the mathematics; nothing here knows a host or a training loop.

    layers       where a UNet2DConditionModel has its cross-attentions
    new_adapter  untrained adapters, made to a U-Net's measure
    prompts      an image prompt in a forward pass: its keys and values, its control, its region
    unet         image prompts in every cross-attention of a U-Net
    fusion       a reference U-Net's features in every self-attention, with `refadgen`, what is trained of it, as a module
    strict_id    a ControlNet with Strictly-ID's branches
    vision       a transformers CLIP vision model as the core's VisionEncoder: masked encoding of references
    sample       latents from noise, with text guidance, image prompts and a depth ControlNet
"""
