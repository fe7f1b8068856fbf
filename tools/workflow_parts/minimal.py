"""The shortest way: the look of one reference without its hidden part, over the whole frame."""

from __future__ import annotations

from .blocks import (
    ABOUT_DEMO,
    ADAPTER_COLOUR,
    DEMO_MODELS,
    DEMO_PICTURES,
    DEMO_SAMPLER,
    DEMO_SIZE,
    LOADERS,
    NEGATIVE_PROMPT,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    Variant,
    compress,
    encode,
    image_file,
    notes,
    prompt,
    rebinarize,
    sampler,
)
from .description import Group, Link, Node, Note, Workflow

HOW_TO_USE = """\
**1.** Load a reference: the picture whose look you want.

**2.** Right-click it, *Open in MaskEditor*, and paint over what must not come through, such as another firm's \
product. Save.

**3.** Write what the ad shows into the prompt, and run.

The patch grid of *PFV Mask Re-binarize* shows what is hidden.

To use the whole reference, delete the link to *mask*.
"""

MODEL_FILES = """\
| folder in `models` | file |
|---|---|
| `checkpoints` | `sd_xl_base_1.0.safetensors`, or any SDXL checkpoint |
| `clip_vision` | `CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors` |
| `ipadapter` | `ip-adapter-plus_sdxl_vit-h.safetensors` |

The CLIP vision file is called `model.safetensors` on its page (h94/IP-Adapter, `models/image_encoder`): rename it.
"""

HOW_TO_USE_DEMO = """\
**1.** Load `demo_reference.png` from this pack's folder `workflows/demo_inputs` into *Reference*. Somebody else's \
product is painted over in it.

**2.** Run. The wall follows the reference, the product and the table follow the prompt.

**3.** Delete the link to *mask* and run again: now the other product is seen, and leaks into the ad.
"""


def minimal(variant: Variant) -> Workflow:
    """The workflow with a variant's models and settings."""
    models = variant.models
    width, height = variant.size
    reference = Group(
        "1  Reference",
        REFERENCE_COLOUR,
        (
            (
                *models.beside_references,
                image_file("reference", "Reference", f"{variant.pictures}reference.png"),
            ),
            (rebinarize("hide", "Hide what is painted", "reference", models.clip_vision),),
            (encode("encode", "Encode the reference", "reference", "hide", models.clip_vision),),
        ),
    )
    columns = (
        models.beside_adapter,
        (compress("compress", "Image prompt", "encode", models.adapter),),
        (
            Node(
                "apply",
                "MEPAApply",
                "Image prompt everywhere",
                {
                    "model": models.model,
                    "image_prompt": Link("compress", "PFV_IMAGE_PROMPT"),
                    "strength": 1.0,
                    "text_share": 1.0,
                    "gate": "output",
                    "start_percent": 0.0,
                    "end_percent": 1.0,
                },
            ),
        ),
    )
    adapter = Group("2  Adapter", ADAPTER_COLOUR, tuple(column for column in columns if column))
    sampling = Group(
        "3  Sampling",
        SAMPLING_COLOUR,
        (
            (
                prompt("positive", "Prompt", variant.prompt, models.clip),
                prompt("negative", "Negative prompt", variant.negative_prompt, models.clip),
                Node("size", "EmptyLatentImage", "Ad size", {"width": width, "height": height, "batch_size": 1}),
            ),
            (
                sampler(
                    variant,
                    model=Link("apply", "MODEL"),
                    positive=Link("positive", "CONDITIONING"),
                    negative=Link("negative", "CONDITIONING"),
                    latent=Link("size", "LATENT"),
                ),
            ),
        ),
    )
    result = Group(
        "4  Result",
        RESULT_COLOUR,
        (
            (Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": models.vae}),),
            (
                Node(
                    "save",
                    "SaveImage",
                    "Save the ad",
                    {"images": Link("decode", "IMAGE"), "filename_prefix": "ad"},
                    height=RESULT_HEIGHT,
                ),
            ),
        ),
    )
    return Workflow(variant.name, (variant.notes, reference, adapter, sampling, result))


MINIMAL = minimal(
    Variant(
        name="minimal",
        models=LOADERS,
        notes=notes(Note("How to use", HOW_TO_USE, 220), Note("Model files", MODEL_FILES, 220), width=380),
        pictures="",
        prompt="a perfume bottle on a stone table, advertising photograph, soft light",
        negative_prompt=NEGATIVE_PROMPT,
        sampler={"steps": 30, "cfg": 7.0, "sampler_name": "dpmpp_2m", "scheduler": "karras"},
        size=(1024, 1024),
    )
)

DEMO_MINIMAL = minimal(
    Variant(
        name="demo_minimal",
        models=DEMO_MODELS,
        notes=notes(Note("How to use", HOW_TO_USE_DEMO, 220), Note("The models", ABOUT_DEMO, 300), width=380),
        pictures=DEMO_PICTURES,
        prompt="a red bottle on a wooden table",
        negative_prompt="",
        sampler=DEMO_SAMPLER,
        size=DEMO_SIZE,
    )
)
