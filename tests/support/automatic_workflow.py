"""From two photographs to an ad with the host's own models, as API form; and the two photographs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from headless.ad.model_files import ModelFiles
from headless.server.client import Prompt

from .automatic_models import AUTOMATIC_FILES
from .tiny_stack.files import TINY_FILES

PHOTO, REFERENCE = "product_photo.png", "reference_photo.png"
PHOTO_SIZE, REFERENCE_SIZE = (360, 300), (400, 320)  # width, height
PRODUCT = (120, 70, 240, 260)  # left, top, right, bottom of the dark ellipse in the photo
BOTTLE = (150, 60, 250, 250)  # and of the one in the reference, which stands on the table
TABLE_FROM = 230  # row at which the reference's table begins

SIDE = 128  # px of the ad


def write_photographs(folder: Path, painted: bool = False) -> None:
    """A packshot on white, and a scene with somebody else's bottle: only these two things are dark.

    Args:
        folder: the server's input folder.
        painted: each file is transparent in a rectangle of its own besides, as what is painted in the page arrives.
    """
    from PIL import Image, ImageDraw

    folder.mkdir(parents=True, exist_ok=True)
    photo = Image.new("RGB", PHOTO_SIZE, (245, 245, 245))
    ImageDraw.Draw(photo).ellipse(PRODUCT, fill=(90, 40, 30))
    reference = Image.new("RGB", REFERENCE_SIZE, (225, 215, 200))
    draw = ImageDraw.Draw(reference)
    draw.rectangle((0, TABLE_FROM, *REFERENCE_SIZE), fill=(205, 180, 170))
    draw.ellipse(BOTTLE, fill=(20, 60, 90))
    for picture, name, rectangle in ((photo, PHOTO, PAINTED_PHOTO), (reference, REFERENCE, PAINTED_REFERENCE)):
        if painted:
            alpha = Image.new("L", picture.size, 255)
            ImageDraw.Draw(alpha).rectangle(rectangle, fill=0)
            picture.putalpha(alpha)
            name = f"painted_{name}"
        picture.save(folder / name)


PAINTED_PHOTO = (60, 60, 299, 269)  # left, top, right, bottom, all of them inside
PAINTED_REFERENCE = (100, 100, 199, 199)


def workflow(
    *,
    photo: str = PHOTO,
    reference: str = REFERENCE,
    models: ModelFiles = TINY_FILES,
    name: str = "the bottle",
    threshold: float = 0.5,
    side: int = SIDE,
    steps: int = 2,
) -> Prompt:
    """Both photographs, cut out and found and measured by the host's models, to a saved ad.

    Args:
        photo, reference: files in the server's input folder; what is transparent in them counts as painted.
        models: files of the ad's own models.
        name: what is looked for in the reference.
        threshold: of SAM3_Detect; 1.0 finds nothing.
        side: width and height of the ad, pixels.
        steps: of the sampling.
    """
    parts = (_pictures(photo, reference), _found(name, threshold), _depths(), _pack(models, side))
    prompt: Prompt = {}
    for part in (*parts, _sampling(models, side, steps)):
        prompt |= part
    return prompt


def _pictures(photo: str, reference: str) -> Prompt:
    return {"photo": _node("LoadImage", image=photo), "reference": _node("LoadImage", image=reference)}


def _found(name: str, threshold: float) -> Prompt:
    """The host's two ways of finding something."""
    return {
        "remover": _node("LoadBackgroundRemovalModel", bg_removal_name=AUTOMATIC_FILES.background_removal),
        "foreground": _node("RemoveBackground", bg_removal_model=["remover", 0], image=["photo", 0]),
        "sam": _node("CheckpointLoaderSimple", ckpt_name=AUTOMATIC_FILES.checkpoint),
        "name": _node("CLIPTextEncode", text=name, clip=["sam", 1]),
        "bottle": _node(
            "SAM3_Detect",
            model=["sam", 0],
            image=["reference", 0],
            conditioning=["name", 0],
            threshold=threshold,
            refine_iterations=1,
            individual_masks=False,
        ),
    }


def _depths() -> Prompt:
    """Depth of both pictures, as pictures."""
    prompt = {
        "estimator": _node("LoadDA3Model", model_name=AUTOMATIC_FILES.geometry_estimation, weight_dtype="default")
    }
    for picture in ("photo", "reference"):
        prompt[f"{picture}_geometry"] = _node(
            "DA3Inference",
            da3_model=["estimator", 0],
            image=[picture, 0],
            resolution=252,
            resize_method="upper_bound_resize",
            mode="mono",
        )
        rendering = {"output": "depth", "output.normalization": "v2_style", "output.apply_sky_clip": False}
        prompt[f"{picture}_depth"] = _node("DA3Render", da3_geometry=[f"{picture}_geometry", 0], **rendering)
    return prompt


def _pack(models: ModelFiles, side: int) -> Prompt:
    """This pack's nodes up to the ControlNet's picture and the image prompt."""
    return {
        "cut_out": _node(
            "PFVCutOut",
            photo=["photo", 0],
            mask_selects="product",
            several_parts=False,
            cut_off=False,
            mask=["photo", 1],
            found=["foreground", 0],
        ),
        "pair": _node("MEPALoad", adapter_name=models.adapter, encoder_name="automatic"),
        "look": _node(
            "PFVReference",
            clip_vision=["pair", 1],
            adapter=["pair", 0],
            reference=["reference", 0],
            hide="automatic",
            fit="pad",
            threshold=0.0,
            mode="drop",
            mask=["reference", 1],
            found=["bottle", 0],
        ),
        "ground": _node(
            "PFVGround",
            picture=["reference", 0],
            ground_line="at",
            at=0.7,
            hidden_mask=["look", 1],
            depth=["reference_depth", 0],
        ),
        "canvas": _node(
            "PFVAdCanvas",
            product=["photo", 0],
            product_mask=["cut_out", 0],
            product_mask_selects="product",
            format="custom",
            custom_width=side,
            custom_height=side,
            sampling_scale="1",
            position="bottom",
            scale_by="height",
            share=0.5,
            margin=0.1,
            safe_left=0.0,
            safe_top=0.0,
            safe_right=0.0,
            safe_bottom=0.0,
            x=0.5,
            y=0.5,
            region_rim=0,
            backdrop=0.5,
        ),
        "placed_depth": _node("PFVAdCanvasPlace", image=["photo_depth", 0], canvas=["canvas", 3], backdrop=0.0),
        "product_depth": _node(
            "PFVProductDepth",
            product_mask=["canvas", 1],
            product_mask_selects="product",
            line=["ground", 0],
            depth=["placed_depth", 0],
        ),
        "depth": _node(
            "PFVDepthCompose",
            foreground_depth=["product_depth", 0],
            product_mask=["canvas", 1],
            product_mask_selects="product",
            reference_depth=["ground", 1],
            fill="surroundings",
            hidden_mask=["look", 1],
            fit="stretch",
        ),
    }


def _sampling(models: ModelFiles, side: int, steps: int) -> Prompt:
    """From there to the ad."""
    return {
        "models": _node("CheckpointLoaderSimple", ckpt_name=models.checkpoint),
        "positive": _node("CLIPTextEncode", text="a bottle in the morning", clip=["models", 1]),
        "negative": _node("CLIPTextEncode", text="blurry", clip=["models", 1]),
        "controlnet": _node("ControlNetLoader", control_net_name=models.controlnet),
        "control": _node(
            "ControlNetApplyAdvanced",
            positive=["positive", 0],
            negative=["negative", 0],
            control_net=["controlnet", 0],
            image=["depth", 0],
            strength=0.8,
            start_percent=0.0,
            end_percent=1.0,
        ),
        "apply": _node(
            "MEPAApply",
            model=["models", 0],
            image_prompt=["look", 0],
            region=["canvas", 2],
            strength=1.0,
            text_share=0.0,
            gate="output",
            start_percent=0.0,
            end_percent=1.0,
        ),
        "latent": _node("EmptyLatentImage", width=side, height=side, batch_size=1),
        "sample": _node(
            "KSampler",
            model=["apply", 0],
            seed=1,
            steps=steps,
            cfg=5.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["control", 0],
            negative=["control", 1],
            latent_image=["latent", 0],
            denoise=1.0,
        ),
        "decode": _node("VAEDecode", samples=["sample", 0], vae=["models", 2]),
        "composite": _node(
            "StrictIDComposite",
            generated=["decode", 0],
            product=["canvas", 0],
            product_mask=["canvas", 1],
            product_mask_selects="product",
            erode=1,
            feather=2,
            canvas=["canvas", 3],
        ),
        "save": _node("SaveImage", images=["composite", 0], filename_prefix="ad"),
    }


def _node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}
