"""One page for each ad: what is exact, what went in, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from ...pfv_core.masks import within_range
from ...pfv_core.region.preview import small_picture
from ..convert import image_from_core, image_to_core
from ..feedback import with_line
from ..host.model_facts import model_facts
from ..host.prompt_graph import (
    Link,
    Prompt,
    Told,
    followed,
    gives,
    kinds,
    links,
    may_be,
    open_inputs,
    settled,
    upstream,
)
from ..host.prompt_values import told_upstream
from ..types import CATEGORY
from .report_page import Page, draw_page
from .report_words import COUNTED, OWN, columns, notes_on, verdict

COMPOSITE = "StrictIDComposite"
CHANGED = "The picture does not come straight from the Strict-ID Composite that counted: what changed it since is not counted."
NOT_SAMPLED = (
    "No sampler of the ad takes the model that is connected to the report: what is said of it may not be the ad's."
)
PERHAPS_SAMPLED = (
    "The workflow does not say whether a sampler of the ad takes the model that is connected to the report: what is said of it "
    "may not be the ad's."
)
MARKED = 'What may have had no part in the ad is marked "perhaps".'
UNTOLD = "ComfyUI handed no workflow over: texts, models and settings are not known, nor whether picture and model are the ad's."
STEERING = (
    "MODEL",
    "CONDITIONING",
)  # what a sampler heeds: another picture behind it, such as a reference, is not the ad
SAMPLED = ("LATENT", "GUIDER", "IMAGE")  # what a node that samples a model gives: detailers give the last


class PFVAdReport(io.ComfyNode):
    """Ad and report of its composite -> a page."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Inputs and outputs."""
        return io.Schema(
            node_id="PFVAdReport",
            display_name="PFV Ad Report",
            category=CATEGORY,
            description="Draws one page for each ad, for a customer or a file: the ad, how many of the product's pixels are the "
            "photo's, what the references gave, the regions, the models and the settings. It saves nothing itself.",
            inputs=[
                io.Image.Input("image", tooltip="The ad: image of Strict-ID Composite."),
                io.String.Input(
                    "report",
                    force_input=True,
                    tooltip="report of the same Strict-ID Composite: the count of exact pixels.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that is sampled, after its last MEPA Apply: for image prompts, regions and strengths. Not "
                    "connected: the page is without them.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "page", display_name="page", tooltip="1240x1754 pixels, one for each ad. For Save Image."
                ),
                io.String.Output(
                    "report_json",
                    display_name="report",
                    tooltip="All that is on the pages, and what they had no room for, as JSON.",
                ),
            ],
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: Tensor, report: str, model: Any = None) -> io.NodeOutput:
        """Gather and draw."""
        ads = within_range(image_to_core(image, "image"), "image")
        counted = _composite_report(report, len(ads))
        prompt, own = _graph(cls)
        told = [] if own is None else told_upstream(prompt, own, _of_the_ad(prompt, own))
        facts = None if model is None else model_facts(model)
        asides = [UNTOLD] if own is None else [*_asides(prompt, own), *_choices(prompt, told)]
        pages = [
            Page(
                "Ad report",
                (ad.movedim(0, -1) * 255).round().to(torch.uint8).numpy(),
                *verdict(one),
                notes=(*notes_on(one), *asides),
                columns=columns(facts, told, prompt),
            )
            for ad, one in zip(ads, counted["ads"], strict=True)
        ]
        drawn = torch.from_numpy(np.stack([draw_page(page) for page in pages])).float() / 255
        text = json.dumps({**counted, "model": facts, "notes": asides, "nodes": told}, indent=2, ensure_ascii=False)
        shown = ui.PreviewImage(image_from_core(small_picture(drawn.movedim(-1, 1)))).as_dict()
        return io.NodeOutput(drawn, text, ui=with_line(shown, "; ".join(page.verdict for page in pages)))


def _composite_report(report: str, ads: int) -> dict[str, Any]:
    """The composite's report, for as many ads as there are."""
    try:
        counted = json.loads(report)
        whole = isinstance(counted["exact"], bool) and all(set(ad) >= COUNTED for ad in counted["ads"])
        found = len(counted["ads"]) if whole else None
    except (ValueError, TypeError, KeyError):
        found = None
    if found is None:
        raise ValueError(
            f"report is no report of Strict-ID Composite, expected JSON with exact, and with ads that have "
            f"{', '.join(sorted(COUNTED))}, got {report[:80]!r}: connect that node's report"
        )
    if found != ads:
        raise ValueError(
            f"report is of {found} ads, image holds {ads}: connect image and report of one Strict-ID Composite"
        )
    return dict(counted)


def _graph(cls: type[io.ComfyNode]) -> tuple[Prompt, str | None]:
    """What of this run's prompt the node depends on, settled, and its own id in it; an empty one where none was handed over."""
    hidden = cls.hidden
    prompt, own = (hidden.prompt, hidden.unique_id) if hidden else (None, None)
    if not isinstance(prompt, Mapping) or str(own) not in prompt:
        return {}, None
    return settled(prompt, str(own)), str(own)


def _asides(prompt: Prompt, own: str) -> list[str]:
    """What the connections say against the page: a picture that is not the composite's own, a model that did not make it."""
    given = links(prompt, own)
    image, report, model = (given.get(name) for name in ("image", "report", "model"))
    straight = image and report and image[0] == report[0] and prompt.get(image[0], {}).get("class_type") == COMPOSITE
    said = [] if straight else [CHANGED]
    if model is None or (image and _sampled(prompt, image[0], {model}, sure=True)):
        return said
    perhaps = image and _sampled(prompt, image[0], may_be(prompt, model), sure=False)
    return [*said, PERHAPS_SAMPLED if perhaps else NOT_SAMPLED]


def _sampled(prompt: Prompt, node_id: str, models: set[Link], sure: bool) -> bool:
    """Whether a sampler behind a node's picture takes one of these models; with `sure`, by wires that were used for certain."""
    made = [node_id, *upstream(prompt, node_id, STEERING, sure)] if node_id in prompt else []
    return any(_samples(prompt, one) and models & _models(prompt, one, sure) for one in made)


def _of_the_ad(prompt: Prompt, own: str) -> set[str]:
    """The nodes that had a part in the ad for certain."""
    image = links(prompt, own).get("image")
    return {image[0], *upstream(prompt, image[0], sure=True)} if image and image[0] in prompt else set()


def _choices(prompt: Prompt, told: list[Told]) -> list[str]:
    """Which inputs may not have been used, and what the mark of what may have had no part in the ad means."""
    unknown = {
        f"{' and '.join(names)} of {one['title']}": None for one in told if (names := open_inputs(prompt, one["id"]))
    }
    said = [f"The workflow does not say what was used of {'; '.join(unknown)}."] if unknown else []
    ends = [end for one in told for end in one.get("reaches", [])]
    return [*said, *([MARKED] if any(one.get("perhaps") for one in (*told, *ends)) else [])]


def _models(prompt: Prompt, node_id: str, sure: bool) -> set[Link]:
    """The model that a node takes, and what it was before nodes of others that change models and say nothing here."""
    found, to_do = set[Link](), [node_id]
    while to_do:
        new = followed(prompt, to_do.pop(), sure) - found
        found |= new
        theirs = (link[0] for link in new if "MODEL" in kinds(prompt, link))
        to_do += [one for one in theirs if not prompt[one]["class_type"].startswith(OWN)]
    return found


def _samples(prompt: Prompt, node_id: str) -> bool:
    """Whether a node that takes a model makes a picture with it; those of this pack ask it for sizes alone."""
    own = prompt[node_id]["class_type"].startswith(OWN)
    return not own and any(gives(prompt, node_id, kind) for kind in SAMPLED)
