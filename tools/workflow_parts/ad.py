"""From two photographs and a sentence to an ad: nothing is painted, and everything that is found can be corrected by hand."""

from __future__ import annotations

from pfv_demo.sizes import IMAGE_SIZE

from . import ad_nodes as steps
from .ad_nodes import AdSettings
from .blocks import (
    ABOUT_DEMO,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    NEGATIVE_PROMPT,
    PAIRED_LOADERS,
    FormatSettings,
    Variant,
    notes,
)
from .description import Note, Workflow
from .formats import BY_HEIGHT, DEMO_MARGIN, DEMO_REGION, DEMO_SHADOW

HOW_TO_USE = """\
**1.** *Product photo*: any photo of your product. *Reference*: a picture whose look you want, with whatever product in it.

**2.** *What must not come through*: name that other product; the number behind the colon is how many of them at most, a comma \
begins another name. *Prompt*: your sentence, which names your product. *Format and place*: the format.

**3.** Run. The ad is saved at the format's size; where the product is opaque it is the photo as it was placed, pixel by pixel: \
resized once, or, with *scale_by* *original*, not at all.

Every step shows what it found, and who found it. **To correct one:**

| step | by hand |
|---|---|
| *Product* | paint the product on *Product photo* (right-click, *Open in MaskEditor*) and set *mask_selects* to *product*; a \
cut-out with transparency works as it is |
| *Look* | paint over what must not come through on *Reference*; or set *hide* to *nothing* |
| *Ground* | set *ground_line* to *at*; or link a depth picture of your own to *depth* (near is bright) |
| *Product depth* | link another depth to *depth*, through *PFV Ad Canvas Place* |
| *Ground region* | link another region to *Regions* |

What is painted wins over what a model found.
"""

WHAT_IS_MISSING = """\
The three grey groups use models that ComfyUI itself runs. Without one of them: right-click the group's title, *Set Group Nodes \
to Never*. The pack then finds by itself what came over the group's link.

| group | ComfyUI | file, folder in `models` | its link | instead |
|---|---|---|---|---|
| *Product by BiRefNet* | 0.21 | `birefnet.safetensors`, `background_removal` | *found* of *Product* | a packshot on plain \
ground |
| *By name, SAM 3* | 0.20 | `sam3.1_multiplex_fp16.safetensors`, `checkpoints` | *found* of *Look* | what stands out |
| *Depth Anything 3* | 0.25 | `depth_anything_3_mono_large.safetensors`, `geometry_estimation` | *depth* of *Ground* and of \
*Product depth* | a plain depth by geometry |

The files are in Comfy-Org's repositories *BiRefNet*, *sam3.1* and *Depth-Anything-3* on Hugging Face. The rest:

| folder in `models` | file |
|---|---|
| `checkpoints` | `sd_xl_base_1.0.safetensors`, or any SDXL checkpoint |
| `ipadapter` | `ip-adapter-plus_sdxl_vit-h.safetensors` |
| `clip_vision` | `CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors` (h94/IP-Adapter, `models/image_encoder`: rename it) |
| `controlnet` | `diffusers_xl_depth_full.safetensors`, or any SDXL depth ControlNet |
"""

HOW_TO_USE_DEMO = """\
**1.** Load the two pictures of this pack's folder `workflows/demo_inputs` into the nodes that name them: a product on plain \
ground, and a scene with somebody else's product. Nothing is painted.

**2.** Run. The product is cut out, the other one is hidden, the ground is found; each node shows what it did. The wall and the \
table follow the reference, and inside the product the ad is the photo itself, pixel by pixel.

**3.** Set *hide* of *Look* to *nothing* and run again: now the other product is seen, and leaks into the ad.
"""


def ad(variant: Variant, settings: AdSettings) -> Workflow:
    """The workflow with a variant's models and settings."""
    cut_out, search, depths = steps.host_cut_out(), steps.host_search(), steps.host_depth()
    found, estimated = ((cut_out, search), (depths,)) if settings.host_models else ((), ())
    return Workflow(
        variant.name,
        (
            variant.notes,
            steps.brought(variant),
            *found,
            steps.product(variant, settings),
            *estimated,
            steps.look(variant, settings),
            steps.depth(settings),
            steps.regions(variant, settings),
            steps.sampling(variant),
            steps.result(variant, settings),
        ),
    )


AD = ad(
    Variant(
        name="ad",
        models=PAIRED_LOADERS,
        notes=notes(
            Note("How to use", HOW_TO_USE, 560),
            Note("What is missing, and what to do", WHAT_IS_MISSING, 560),
            width=520,
        ),
        pictures="",
        prompt="a perfume bottle on a table, product advertising photograph, soft daylight",
        negative_prompt=NEGATIVE_PROMPT,
        sampler={"steps": 30, "cfg": 7.5, "sampler_name": "ddim", "scheduler": "ddim_uniform"},
        control_strength=0.8,
        erode=2,
        feather=4,
    ),
    AdSettings(
        canvas={"format": "1:1", "position": "bottom", "scale_by": "fit", "share": 0.7, "margin": 0.1},
        region=FormatSettings(grow=8, softness=8),
        shadow_size=BY_HEIGHT,
        host_models=True,
    ),
)

DEMO_AD = ad(
    Variant(
        name="demo_ad",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE_DEMO, 360), Note("The models", ABOUT_DEMO, 300), width=420),
        pictures=DEMO_PICTURES,
        prompt="a red bottle",
        negative_prompt="",
        sampler=DEMO_SAMPLER,
        control_strength=1.0,
        erode=1,
        feather=1,
    ),
    AdSettings(
        canvas={
            "format": "custom",
            "custom_width": IMAGE_SIZE,
            "custom_height": IMAGE_SIZE,
            "position": "bottom",
            "scale_by": "fit",
            "share": 0.99,  # the shipped photo's own size, so that its pixels stay as they are
            "margin": DEMO_MARGIN,
        },
        region=DEMO_REGION,
        shadow_size=DEMO_SHADOW,
        host_models=False,
    ),
)
