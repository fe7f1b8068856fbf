"""Strictly-ID's ControlNet: loaded from its file, and its branches' pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io

from ...pfv_core.attention.balance import PAPER_GAMMA
from ...pfv_core.choices import parse_choice
from ...pfv_core.reference.vit import ImageTokens
from ..feedback import with_line
from ..host.files import Fingerprint, fingerprint
from ..host.strict_id import Balance, load_control, with_pictures
from ..types import RESEARCH_CATEGORY, ImageTokensType

FOLDER = "controlnet"


class StrictIDLoadControlNet(io.ComfyNode):
    """File -> ControlNet with a hint of four channels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="StrictIDLoadControlNet",
            display_name="Strictly-ID Load ControlNet",
            category=RESEARCH_CATEGORY,
            description="Research: the pack brings a small file for the demo's models, for SD1.5 and SDXL you train one with "
            "python -m lab.train of the pack's repository. Loads a ControlNet that draws a scene around the product as "
            "it stands on the canvas, in the size that the scale map says, from models/controlnet.",
            inputs=[
                io.Combo.Input(
                    "control_net_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A Strictly-ID file in models/controlnet, or pfv_demo_strict_id, which the pack brings. What a file "
                    "is, is read from it, never from its name.",
                )
            ],
            outputs=[
                io.ControlNet.Output(
                    "control_net",
                    display_name="control_net",
                    tooltip="For Apply ControlNet, whose image is hint of PFV Scale Map; or for Strictly-ID Branches before it.",
                )
            ],
        )

    @classmethod
    def execute(cls, control_net_name: str) -> io.NodeOutput:
        """Load."""
        control_net = load_control(Path(folder_paths.get_full_path_or_raise(FOLDER, control_net_name)))
        config = control_net.config
        line = f"for {config.base}; pictures encoded by {config.encoder.name}, {config.encoder.image_size} px"
        return io.NodeOutput(control_net, ui=with_line({}, line))

    @classmethod
    def fingerprint_inputs(cls, control_net_name: str) -> Fingerprint:
        """A file that was replaced is loaded anew."""
        return fingerprint(FOLDER, control_net_name)


class StrictIDBranches(io.ComfyNode):
    """ControlNet and encoded pictures -> ControlNet whose branches read them."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="StrictIDBranches",
            display_name="Strictly-ID Branches",
            category=RESEARCH_CATEGORY,
            description="Research: gives a Strictly-ID ControlNet a picture of the pose and one of the appearance of whoever is "
            "drawn beside the product. Without this node, or without a picture, the text alone says it.",
            inputs=[
                io.ControlNet.Input("control_net", tooltip="From Strictly-ID Load ControlNet."),
                io.Float.Input(
                    "pose_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How strongly the pose counts. 0: not at all. 1: as trained.",
                ),
                io.Float.Input(
                    "appearance_strength",
                    default=1.0,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="How strongly the appearance counts. 0: not at all. 1: as trained.",
                ),
                io.Combo.Input(
                    "std_norm",
                    options=list(Balance),
                    default=Balance.AS_TRAINED,
                    tooltip="Brings the appearance to the spread that the text has in each attention, so that it cannot drown "
                    "it (equation 8).",
                ),
                io.Combo.Input(
                    "time_weighting",
                    options=list(Balance),
                    default=Balance.AS_TRAINED,
                    tooltip="The appearance comes in late, when the text has laid out the picture (equation 10). on: by gamma. "
                    "off: it counts all the time.",
                ),
                io.Int.Input(
                    "gamma",
                    default=PAPER_GAMMA,
                    min=1,
                    max=999,
                    tooltip="For time_weighting on, timesteps of 1000, which count down: the appearance is absent down to 2 x "
                    "gamma, whole from gamma on, rising evenly between. Smaller: the text rules longer.",
                ),
                ImageTokensType.Input(
                    "pose",
                    optional=True,
                    tooltip="A picture of the pose through PFV Image Encode, mode zero. Not connected: no pose is asked for.",
                ),
                ImageTokensType.Input(
                    "appearance",
                    optional=True,
                    tooltip="A picture of the appearance through PFV Image Encode, mode zero, another product in it hidden. Not "
                    "connected: the text alone says it.",
                ),
            ],
            outputs=[
                io.ControlNet.Output(
                    "branched_control_net", display_name="control_net", tooltip="For Apply ControlNet."
                )
            ],
        )

    @classmethod
    def execute(
        cls,
        control_net: Any,
        pose_strength: float,
        appearance_strength: float,
        std_norm: str,
        time_weighting: str,
        gamma: int,
        pose: ImageTokens | None = None,
        appearance: ImageTokens | None = None,
    ) -> io.NodeOutput:
        """Give the pictures."""
        return io.NodeOutput(
            with_pictures(
                control_net,
                None if pose is None else (pose, pose_strength),
                None if appearance is None else (appearance, appearance_strength),
                parse_choice(Balance, std_norm, "std_norm"),
                parse_choice(Balance, time_weighting, "time_weighting"),
                float(gamma),
            )
        )
