"""The shortest way: the look of one reference without its hidden part, over the whole frame."""

from __future__ import annotations

from .blocks import (
    ADAPTER_COLOUR,
    NEGATIVE_PROMPT,
    REFERENCE_COLOUR,
    RESULT_COLOUR,
    RESULT_HEIGHT,
    SAMPLING_COLOUR,
    adapter,
    checkpoint,
    clip_vision,
    compress,
    encode,
    image_file,
    prompt,
    rebinarize,
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

NOTES = Group(None, "", ((Note("How to use", HOW_TO_USE, 220), Note("Model files", MODEL_FILES, 220)),), 380)

REFERENCE = Group(
    "1  Reference",
    REFERENCE_COLOUR,
    (
        (
            clip_vision(),
            image_file("reference", "Reference", "reference.png"),
        ),
        (rebinarize("hide", "Hide what is painted", "reference"),),
        (encode("encode", "Encode the reference", "reference", "hide"),),
    ),
)

ADAPTER = Group(
    "2  Adapter",
    ADAPTER_COLOUR,
    (
        (
            checkpoint(),
            adapter(),
        ),
        (compress("compress", "Image prompt", "encode"),),
        (
            Node(
                "apply",
                "MEPAApply",
                "Image prompt everywhere",
                {
                    "model": Link("checkpoint", "MODEL"),
                    "image_prompt": Link("compress", "PFV_IMAGE_PROMPT"),
                    "strength": 1.0,
                    "text_share": 1.0,
                    "gate": "output",
                    "start_percent": 0.0,
                    "end_percent": 1.0,
                },
            ),
        ),
    ),
)

SAMPLING = Group(
    "3  Sampling",
    SAMPLING_COLOUR,
    (
        (
            prompt("positive", "Prompt", "a perfume bottle on a stone table, advertising photograph, soft light"),
            prompt("negative", "Negative prompt", NEGATIVE_PROMPT),
            Node("size", "EmptyLatentImage", "Ad size", {"width": 1024, "height": 1024, "batch_size": 1}),
        ),
        (
            Node(
                "sampler",
                "KSampler",
                "Sampler",
                {
                    "model": Link("apply", "MODEL"),
                    "positive": Link("positive", "CONDITIONING"),
                    "negative": Link("negative", "CONDITIONING"),
                    "latent_image": Link("size", "LATENT"),
                    "seed": 1,
                    "steps": 30,
                    "cfg": 7.0,
                    "sampler_name": "dpmpp_2m",
                    "scheduler": "karras",
                    "denoise": 1.0,
                },
            ),
        ),
    ),
)

RESULT = Group(
    "4  Result",
    RESULT_COLOUR,
    (
        (Node("decode", "VAEDecode", None, {"samples": Link("sampler", "LATENT"), "vae": Link("checkpoint", "VAE")}),),
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

MINIMAL = Workflow("minimal", (NOTES, REFERENCE, ADAPTER, SAMPLING, RESULT))
