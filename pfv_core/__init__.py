"""The mathematics of PFV and MEPA (arXiv 2405.19085), on torch, numpy and safetensors alone.

PFV hides parts of a reference image at patch level before an image encoder sees it; MEPA puts text and image
prompts into one cross-attention, each in its own region. Nothing here knows the program that hosts the model.

    reference   fit -> patch_mask (D -> D_p -> D_z, section 3.2) -> patch_embed, vit (Eq. 1, 2); encoder_spec: its sizes, from a
                file too; file, origin: kept on disk
    adapter     token_compress, resampler (Eq. 3); combine: several prompts as one; model, checkpoint: the trained modules and
                their files
    attention   query_mask (Eq. 5); formula, plan, general, balance (Eq. 4, 6, and Strictly-ID's 8 to 10); fusion (RefAdGen,
                Eq. 1); unet_layout: which cross-attention a weight belongs to; weights, layer_weights, curve: how
                strongly an image prompt counts in it, and when
    region      regions drawn, grown and shared; distance
    ad          formats, placement, cut_out, canvas; depth, composite, shadow; exactness, counted
    masks       masks as people and files give them: polarity, soft edges, what is refused
    found       what a picture shows, found without a model
    research    scale_map (Strictly-ID, sections 3.2, 6.2), mask_input (RefAdGen)

Imports go from right to left in: reference <- adapter <- attention; region and ad stand beside them.
"""
