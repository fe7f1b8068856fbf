"""The demo's workflows without ComfyUI: the same files, the same settings, the same noise, computed by diffusers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from pfv_demo.sizes import WEIGHTS

from ..server.client import Prompt
from .diffusers_nodes import DemoNodes
from .graph import Graph
from .made import Made
from .pictures import Pictures, as_picture
from .workflow import title_of

SAVE = "SaveImage"


class DiffusersEngine:
    """The demo's models in diffusers, on the CPU.

    Args:
        weights: folder of the demo's files.

    Raises:
        FileNotFoundError: one is missing.
    """

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._nodes = DemoNodes(weights)

    @torch.no_grad()
    def run(self, workflow: Prompt, pictures: Pictures, file: Path) -> Made:
        """Make the ad and write it with the workflow in it, as ComfyUI would.

        Raises:
            ValueError: a node or a setting that only ComfyUI computes, or one that the functions behind the nodes refuse; more
                than one node that saves.
        """
        (saver,) = [node_id for node_id, node in workflow.items() if node["class_type"] == SAVE]
        graph = Graph(workflow, self._nodes.operations(pictures))
        (image,) = graph.compute(saver).outputs
        _save(image, workflow, file)
        computed = {title_of(workflow[node_id]): node for node_id, node in graph.computed.items()}
        return Made(
            file,
            workflow,
            {title: as_picture(node.picture) for title, node in computed.items() if node.picture is not None},
            {title: node.text for title, node in computed.items() if node.text},
        )


def _save(image: Tensor, workflow: Prompt, file: Path) -> None:
    embedded = PngInfo()
    embedded.add_text("prompt", json.dumps(workflow))
    values = image[0].movedim(0, -1).numpy()  # CHW -> HWC
    Image.fromarray((255 * values).clip(0, 255).astype(np.uint8)).save(file, pnginfo=embedded)  # as ComfyUI rounds
