"""What the user is told while something runs: in the log, and where there is a page, on it."""

from __future__ import annotations

import logging
import sys

EVENT = "pfv_told"  # that web/told.js listens to
SERVER = "server"  # the host's module, there where the host runs as a server

logger = logging.getLogger(__name__)


def tell(message: str) -> None:
    """Warn in the log and on the page whose workflow runs."""
    logger.warning(message)
    server = getattr(getattr(sys.modules.get(SERVER), "PromptServer", None), "instance", None)
    if server is not None:
        server.send_sync(EVENT, {"message": message}, server.client_id)
