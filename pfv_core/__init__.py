"""The mathematics of PFV and MEPA (arXiv 2405.19085), on torch, numpy and safetensors alone.

PFV hides parts of a reference image at patch level before an image encoder sees it; MEPA puts text and image
prompts into one cross-attention, each in its own region. Nothing here knows the program that hosts the model.

    fit             how an image lands on the encoder's square input
    patch_mask      D -> D_p -> D_z                       (section 3.2)
    patch_embed     masked pixels, masked patch embedding (Eq. 1, 2)
    vit             masked ViT encoding; open_clip_vit binds an open_clip encoder to it
    token_compress  token compression                     (Eq. 3); resampler holds the public one
    query_mask      a region on each layer's grid         (Eq. 5)
    attention       text and image cross-attention        (Eq. 4, 6)
    adapter         the trained modules;  checkpoint: file -> checked configuration and weights
    unet_layout     which cross-attention a weight belongs to
    depth, composite  the depth image for ControlNet, and the paste-back of the product;  preview  what is hidden, drawn
    ad_formats, placement, cut_out, canvas  a product on an ad's canvas, and the exact size at the end
    distance, regions, region_preview       regions grown, drawn and shared
    shadow, exactness   a contact shadow, and what an ad holds of its product, counted
    scale_map           how large a subject stands beside the product  (Strictly-ID, sections 3.2, 6.2)
"""
