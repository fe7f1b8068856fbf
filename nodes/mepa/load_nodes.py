"""Adapter and image encoder from one loader that pairs them."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..feedback import with_line
from ..host.adapter import FOLDER, HostAdapter, register_folder
from ..host.encoder_files import FOLDER as ENCODER_FOLDER
from ..host.encoder_files import encoder_names, find_encoder, load_encoder
from ..host.files import Fingerprint, fingerprint
from ..host.vit import encoder_spec
from ..types import CATEGORY, AdapterType

AUTOMATIC = "automatic"


class MEPALoad(io.ComfyNode):
    """Files -> adapter and encoder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        register_folder()
        return io.Schema(
            node_id="MEPALoad",
            display_name="MEPA Load Adapter and Encoder",
            category=CATEGORY,
            description="Loads an image-prompt adapter from models/ipadapter together with the image encoder that it was trained "
            "with, from models/clip_vision. Which encoder fits is read from the files, never from their names.",
            inputs=[
                io.Combo.Input(
                    "adapter_name",
                    options=folder_paths.get_filename_list(FOLDER),
                    tooltip="A file in models/ipadapter.",
                ),
                io.Combo.Input(
                    "encoder_name",
                    options=[AUTOMATIC, *encoder_names()],
                    default=AUTOMATIC,
                    tooltip="automatic: the only kind in models/clip_vision that fits the adapter, by the tensors in the files. "
                    "Or a file there; one that does not fit is refused.",
                ),
            ],
            outputs=[
                AdapterType.Output(
                    "adapter", display_name="adapter", tooltip="For PFV Reference or PFV Token Compress."
                ),
                io.ClipVision.Output(
                    "clip_vision", display_name="clip_vision", tooltip="The adapter's encoder, for PFV Reference."
                ),
            ],
        )

    @classmethod
    def execute(cls, adapter_name: str, encoder_name: str) -> io.NodeOutput:
        """Load both."""
        adapter = HostAdapter.load(Path(folder_paths.get_full_path_or_raise(FOLDER, adapter_name)))
        file = find_encoder(adapter.config) if encoder_name == AUTOMATIC else encoder_name
        clip_vision = load_encoder(file, adapter.config)
        line = f"{adapter.config.kind.value} adapter for {adapter.config.base}; {encoder_spec(clip_vision).name} from {file}"
        return io.NodeOutput(adapter, clip_vision, ui=with_line({}, line))

    @classmethod
    def fingerprint_inputs(cls, adapter_name: str, encoder_name: str) -> tuple[Fingerprint, ...]:
        """A file that was replaced is loaded anew; automatic depends on every file there is."""
        encoders = encoder_names() if encoder_name == AUTOMATIC else [encoder_name]
        return fingerprint(FOLDER, adapter_name), *(fingerprint(ENCODER_FOLDER, name) for name in sorted(encoders))
