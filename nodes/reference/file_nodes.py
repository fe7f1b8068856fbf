"""Encoded references to and from files, so that a catalogue encodes each of them once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy.model_management import intermediate_device
from comfy_api.latest import io
from torch import Tensor

from ...pfv_core.choices import parse_choice
from ...pfv_core.reference.file import check_origin, load_reference, save_reference
from ...pfv_core.reference.origin import EncodedReference, mask_hash, reference_origin
from ...pfv_core.reference.patch_mask import PatchMask
from ...pfv_core.reference.vit import ImageTokens
from ..convert import clamp_overshoot, image_to_core
from ..host.files import Fingerprint, fingerprint
from ..host.vit import clip_vision_output, encoder_spec
from ..types import CATEGORY, ImageTokensType, PatchMaskType, SavedMode
from .encoded import encoder_hash
from .folder import FOLDER, file_name, register_folder


class PFVSaveReference(io.ComfyNode):
    """Visible tokens -> file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        register_folder()
        return io.Schema(
            node_id="PFVSaveReference",
            display_name="PFV Save Reference",
            category=CATEGORY,
            description="Saves an encoded reference, for PFV Load Reference here or on another machine. The file is named "
            "after what it was made of, so the same reference is saved once.",
            inputs=[
                ImageTokensType.Input("image_tokens", tooltip="From PFV Image Encode."),
                io.String.Input(
                    "name",
                    default="reference",
                    tooltip="The file's name begins with it. It holds no folders. The file lies in output/pfv_references, or in "
                    "the folder that extra_model_paths.yaml gives for pfv_references.",
                ),
            ],
            outputs=[
                ImageTokensType.Output(
                    "saved_tokens", display_name="image_tokens", tooltip="The same tokens, for PFV Token Compress."
                ),
                io.String.Output("file", display_name="file", tooltip="The file's name, for PFV Load Reference."),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, image_tokens: ImageTokens, name: str) -> io.NodeOutput:
        """Save, unless the same is there already."""
        if not isinstance(image_tokens, EncodedReference):
            raise ValueError(
                "image_tokens do not say what they were made of, so nobody could check the file later: connect PFV Image Encode"
            )
        path = Path(folder_paths.get_folder_paths(FOLDER)[0]) / file_name(name, image_tokens.origin.key)
        if not _holds(path, image_tokens):
            save_reference(path, image_tokens)
        return io.NodeOutput(image_tokens, path.name, ui={"references": [path.name]})


class PFVLoadReference(io.ComfyNode):
    """File -> visible tokens."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        register_folder()
        return io.Schema(
            node_id="PFVLoadReference",
            display_name="PFV Load Reference",
            category=CATEGORY,
            description="Loads a reference that PFV Save Reference has saved; no encoder is needed. Whatever is connected beside "
            "the file is compared with what the file was made of, and a difference is an error.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in output/pfv_references, input/pfv_references or models/pfv_references.",
                ),
                io.Combo.Input(
                    "mode",
                    options=list(SavedMode),
                    default=SavedMode.AS_SAVED,
                    tooltip="as_saved: whichever the file has. drop, zero: the file must have been encoded so.",
                ),
                io.ClipVision.Input(
                    "clip_vision",
                    optional=True,
                    tooltip="Must be the encoder that encoded the file. Not connected: any.",
                ),
                io.Image.Input(
                    "reference",
                    optional=True,
                    tooltip="Must be the picture that the file holds; only visible pixels count. Needs patch_mask. Not "
                    "connected: any.",
                ),
                PatchMaskType.Input(
                    "patch_mask",
                    optional=True,
                    tooltip="Must be the mask, fit and threshold that the file was made with. Not connected: any.",
                ),
            ],
            outputs=[
                ImageTokensType.Output("image_tokens", display_name="image_tokens", tooltip="For PFV Token Compress."),
                io.ClipVisionOutput.Output(
                    "clip_vision_output",
                    display_name="clip_vision_output",
                    tooltip="The same tokens for any node that takes CLIP vision.",
                ),
            ],
        )

    @classmethod
    def execute(
        cls,
        file: str,
        mode: str,
        clip_vision: Any = None,
        reference: Tensor | None = None,
        patch_mask: PatchMask | None = None,
    ) -> io.NodeOutput:
        """Load and compare."""
        asked = _asked(mode, clip_vision, reference, patch_mask)
        tokens = load_reference(Path(folder_paths.get_full_path_or_raise(FOLDER, file)))
        check_origin(file, tokens.origin, asked)
        tokens = tokens.to(intermediate_device())
        return io.NodeOutput(tokens, clip_vision_output(tokens))

    @classmethod
    def fingerprint_inputs(cls, file: str, **others: Any) -> Fingerprint:
        """A file that was replaced is loaded anew."""
        return fingerprint(FOLDER, file)


def _holds(path: Path, tokens: EncodedReference) -> bool:
    """Whether a whole file of the same content is there."""
    try:
        return load_reference(path).origin == tokens.origin
    except (FileNotFoundError, ValueError):
        return False


def _asked(
    mode: str, clip_vision: Any, reference: Tensor | None, patch_mask: PatchMask | None
) -> dict[str, str | float]:
    """The attributes of an origin that the connected inputs fix."""
    asked: dict[str, str | float] = {}
    wanted = parse_choice(SavedMode, mode, "mode")
    if wanted is not SavedMode.AS_SAVED:
        asked["mode"] = wanted.value
    if clip_vision is not None:
        encoder_spec(clip_vision)
        asked["encoder"] = encoder_hash(clip_vision)
    if patch_mask is not None:
        asked |= {"fit": patch_mask.geometry.fit.value, "threshold": float(patch_mask.threshold)}
        asked["mask"] = mask_hash(patch_mask)
    if reference is not None:
        if patch_mask is None:
            raise ValueError(
                "reference is connected without patch_mask: only its visible pixels can be compared, so connect both"
            )
        image = clamp_overshoot(image_to_core(reference, "reference"))
        asked["image"] = reference_origin(image, patch_mask, "drop", "").image
    return asked
