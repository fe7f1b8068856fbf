"""What the user is told while something runs: in the log, and where there is a page, on it; and which node runs."""

from __future__ import annotations

import logging
import sys
from typing import Any

import nodes as host_nodes
from comfy_execution.utils import get_executing_context

EVENT = "pfv_told"  # that web/told.js listens to
SERVER = "server"  # the host's module, there where the host runs as a server
EXPANDED = "."  # in the host's ids, after that of a node whose place other nodes have taken
NOT_BY_ITSELF = ("LATENT", "GUIDER")  # what a node gives that leaves the decoding to others

logger = logging.getLogger(__name__)


def tell(message: str) -> None:
    """Warn in the log and on the page whose workflow runs; a job that no page has sent warns on none."""
    logger.warning(message)
    server = _server()
    if server is not None and server.client_id is not None:
        server.send_sync(EVENT, {"message": message}, server.client_id)


def drawing_node() -> str | None:
    """The class of the node that runs, or that what runs was put into the graph for, if it gives an image, and no latent and no
    guider: it encodes and decodes by itself, and may sample parts of the ad as pictures of their own. None where it does not, or
    nobody says which node runs."""
    context, server = get_executing_context(), _server()
    if context is None or server is None:
        return None
    running, _ = server.prompt_queue.get_current_queue_volatile()
    for _number, prompt_id, prompt, *_ in running:
        node_id = context.node_id if context.node_id in prompt else context.node_id.split(EXPANDED)[0]
        if prompt_id == context.prompt_id and node_id in prompt:
            class_type: str = prompt[node_id]["class_type"]
            gives = host_nodes.NODE_CLASS_MAPPINGS[class_type].RETURN_TYPES
            return class_type if "IMAGE" in gives and not any(kind in gives for kind in NOT_BY_ITSELF) else None
    return None


def _server() -> Any:
    """The host's, None where its classes are used without one."""
    return getattr(getattr(sys.modules.get(SERVER), "PromptServer", None), "instance", None)
