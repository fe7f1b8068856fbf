"""The tiny trained models, for a first try on any machine."""

from __future__ import annotations

from comfy_api.latest import io

from ...pfv_demo.sizes import IMAGE_SIZE, WEIGHTS
from ..host import demo as host_demo
from ..types import CATEGORY, AdapterType


class PFVDemoModels(io.ComfyNode):
    """Shipped weights -> every model a workflow needs."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Outputs; there is nothing to choose."""
        return io.Schema(
            node_id="PFVDemoModels",
            display_name="PFV Demo Models",
            category=CATEGORY,
            description="Tiny models that come with this pack, trained on rendered product scenes. They take the place of all "
            "loaders, so that a workflow can be tried in seconds and without downloads. "
            f"Images of {IMAGE_SIZE}x{IMAGE_SIZE} pixels.",
            inputs=[],
            outputs=[
                io.Model.Output("model", display_name="model", tooltip="For MEPA Apply or the sampler."),
                io.Clip.Output(
                    "clip",
                    display_name="clip",
                    tooltip="For the prompts. The help page lists its words.",
                ),
                io.Vae.Output("vae", display_name="vae", tooltip="For VAE Decode and VAE Encode."),
                io.ClipVision.Output(
                    "clip_vision",
                    display_name="clip_vision",
                    tooltip="For PFV Mask Re-binarize and PFV Image Encode: 8x8 patches.",
                ),
                io.ControlNet.Output("control_net", display_name="control_net", tooltip="A depth ControlNet."),
                AdapterType.Output(
                    "adapter", display_name="adapter", tooltip="For PFV Reference or PFV Token Compress."
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        """Load."""
        host_demo.demo_files(WEIGHTS)
        return io.NodeOutput(
            host_demo.demo_model(WEIGHTS),
            host_demo.demo_clip(WEIGHTS),
            host_demo.demo_vae(WEIGHTS),
            host_demo.demo_clip_vision(WEIGHTS),
            host_demo.demo_controlnet(WEIGHTS),
            host_demo.demo_adapter(WEIGHTS),
        )

    @classmethod
    def fingerprint_inputs(cls) -> list[tuple[str, int, int]]:
        """Loaded once, and anew when a file was replaced. A missing file is `execute`'s to explain."""
        files = [file for file in sorted(WEIGHTS.glob("*.safetensors")) if file.is_file()]
        return [(file.name, (stat := file.stat()).st_size, stat.st_mtime_ns) for file in files]
