"""ComfyUI's own page in a headless Chromium, as a person uses it: drop, click, paint, run, read."""

from __future__ import annotations

import base64
import io
import json
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Locator, Page, Playwright, Route
from playwright.sync_api import TimeoutError as PageTimeoutError

CHECKS = (Path(__file__).parent / "page_checks.js").read_text(encoding="utf-8")
WINDOW = {"width": 1600, "height": 1000}
OPTIONS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic", "--no-first-run"]
OPTIONS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the templates open by themselves
    "Comfy.InstalledVersion": "1.27.10",
    "Comfy.Workflow.Persist": False,  # begin with an empty canvas
    "Comfy.Notification.ShowVersionUpdates": False,
    "Comfy.Minimap.Visible": False,
    "Comfy.Graph.CanvasInfo": False,
    "Comfy.NodeBadge.NodeSourceBadgeMode": "None",
    "Comfy.Locale": "en",
    "Comfy.VueNodes.Enabled": False,
}
MEDIA_TYPES = {".json": "application/json", ".png": "image/png"}
EMPTY_PLACE = (800, 900)  # of the window, where nothing lies over the canvas
TRIES = 8  # of a gesture that a busy page may miss

# Of whatever frontend the page is, the older ones' first. What is a dialog there is a card with details in newer ones.
RUN = "[data-testid='queue-button'] button, button[data-testid='queue-button']"
DIALOG = ".p-dialog"
CARD = "[data-testid='error-overlay']"
CARD_MORE = "[data-testid='error-overlay-see-errors']"
DETAILS = "[data-testid='properties-panel']"
REPORT_SECONDS = 30  # that an error's details may take on a busy machine
CLOSE = ", ".join(f"{place} button[aria-label='Close']" for place in (DIALOG, "[role=dialog]", CARD))
CLOSE += f", {DIALOG} .p-dialog-close-button"
TOAST = ".p-toast-message, [data-sonner-toast]"
SEARCH_FIELD = ".comfy-vue-node-search-box input, [role=dialog] [role=combobox]"
SEARCH_RESULT = ".comfy-vue-node-search-box .option-display-name, [data-testid='result-item'] span.truncate"
HELP = "[data-testid='info-button'], .help-button:has(.pi-question-circle)"  # of the selected node
BUSY = ".p-blockui-mask-document"
MASK_CANVAS = "#maskCanvas, #maskEditorCanvasContainer canvas.z-30"
MASK_EDITOR = "#maskEditor, #maskEditorCanvasContainer"
MASK_SAVE = "#maskEditor_topBarSaveButton, [role=dialog] button:has-text('Save')"

HOST_NOISE = (  # of the frontends without any pack
    "user.css",
    "/api/userdata",
    "favicon.ico",
    "Cannot read properties of undefined (reading 'id')",
    "Cannot set properties of null (setting 'value')",  # when the node search closes
    "/docs/",  # it asks for a help page in the chosen language first
    "Error fetching file size",  # of a missing model: nothing outside of the host is reached here
    "/api/jobs",  # what follows, newer frontends ask of a host that does not have it yet
    "Failed to fetch jobs",
    "/api/global_subgraphs",
    "/templates/",
    "Error loading fuse options",
    "ComfyApp graph accessed before initialization",  # 1.45 to 1.52, by themselves
)

# Newer hosts let the page reach nobody else. It tries to by itself, the pack's scripts must not.
REFUSED = "Content Security Policy"
PACK_SCRIPTS = f"/extensions/{Path(__file__).resolve().parents[2].name}/"

READY = """() => window.app?.vueAppReady && app.extensionManager && !app.extensionManager.spinner
    && Object.keys(window.LiteGraph?.registered_node_types ?? {}).length > 50
    && app.graph"""
DROP = """([content, name, type, x, y]) => {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0))
    const dropped = new DataTransfer()
    dropped.items.add(new File([bytes], name, { type }))
    const at = { bubbles: true, cancelable: true, dataTransfer: dropped, clientX: x, clientY: y }
    for (const step of ['dragenter', 'dragover', 'drop'])
        document.querySelector('#graph-canvas').dispatchEvent(new DragEvent(step, at))
}"""
FEW_STEPS = """() => {
    const graphs = new Set([app.graph])
    for (const graph of graphs) for (const node of graph.nodes) {
        if (node.subgraph) graphs.add(node.subgraph)
        if (node.type === 'KSampler') node.widgets.find((widget) => widget.name === 'steps').value = 2
    }
}"""
VIEW_RESTS = """() => new Promise((done) => {
    let before
    const look = () => {
        const { offset, scale } = app.canvas.ds, now = JSON.stringify([...offset, scale])
        if (now === before) return done()
        before = now
        setTimeout(() => requestAnimationFrame(look), 60)
    }
    look()
})"""
PICTURES_ARE_THERE = """() => app.graph.nodes.every((node) =>
    !app.nodeOutputs[node.id]?.images?.length || node.imgs?.every((picture) => picture.naturalWidth > 0))"""
ON_SCREEN = """([title, right, down]) => {
    const node = app.graph.nodes.find((node) => node.title === title), { canvas, ds } = app.canvas
    const place = canvas.getBoundingClientRect(), x = node.pos[0] + node.size[0] * right
    const y = down < 0 ? node.pos[1] - 15 : node.pos[1] + node.size[1] * down
    return [place.left + (x + ds.offset[0]) * ds.scale, place.top + (y + ds.offset[1]) * ds.scale]
}"""
SHOW = """(titles) => {
    const nodes = app.graph.nodes.filter((node) => titles.includes(node.title)), { canvas, ds } = app.canvas
    const left = Math.min(...nodes.map((node) => node.pos[0])) - 40
    const top = Math.min(...nodes.map((node) => node.pos[1])) - 80
    const right = Math.max(...nodes.map((node) => node.pos[0] + node.size[0])) + 40
    const bottom = Math.max(...nodes.map((node) => node.pos[1] + node.size[1])) + 40
    const { width, height } = canvas.getBoundingClientRect()
    ds.scale = Math.min((width - 120) / (right - left), (height - 120) / (bottom - top), 1.5)
    ds.offset = [-left + 90 / ds.scale, -top + 90 / ds.scale]
    app.canvas.deselectAll() // a selected node cuts off what it was over before
    app.canvas.setDirty(true, true)
}"""
MASK_CANVAS_PLACE = """([selector, title]) => {
    const canvas = document.querySelector(selector), node = app.graph.nodes.find((node) => node.title === title)
    const place = canvas?.getBoundingClientRect()
    if (!canvas || canvas.width !== node.imgs[0].naturalWidth || place.width < 50) return null
    return document.querySelector('#maskEditor_brush') && [place.left, place.top, place.width / canvas.width]
}"""


class ComfyPage:
    """One page of a running server.

    Args:
        playwright: a started one.
        chromium: the browser's executable.
        url: the server's.
    """

    def __init__(self, playwright: Playwright, chromium: str, url: str) -> None:
        self.url = url
        self.is_usual = False
        self.complaints: list[str] = []
        self.browser: Browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        context = self.browser.new_context(viewport=WINDOW, permissions=["clipboard-read", "clipboard-write"])
        context.route("**/*", self._host_only)
        self.page: Page = context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self._complain(str(error)))
        self.page.on("console", lambda line: line.type == "error" and self._complain(f"{line.text} {line.location}"))

    def _host_only(self, route: Route) -> None:
        inside = route.request.url.startswith((self.url, "data:", "blob:"))
        route.continue_() if inside else route.abort()

    def _complain(self, text: str) -> None:
        noise = any(noise in text for noise in (*HOST_NOISE, "ERR_FAILED"))
        if not noise and not (REFUSED in text and PACK_SCRIPTS not in text):
            self.complaints.append(text)

    def open(self, **settings: Any) -> ComfyPage:
        """Load the page with an empty canvas; settings by their id with underscores for dots."""
        self.is_usual = not settings
        body = SETTINGS | {name.replace("_", "."): value for name, value in settings.items()}
        request = urllib.request.Request(f"{self.url}/api/settings", json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        urllib.request.urlopen(request, timeout=60).close()
        self.page.goto(self.url, wait_until="domcontentloaded")
        self.page.wait_for_function(READY)
        self.page.evaluate(CHECKS)
        self.ask("() => app.graph.clear()")  # newer ones begin with a workflow of their own
        self.wait_for_nodes(0)
        return self

    def close(self) -> None:
        self.browser.close()

    def until(self, gesture: Callable[[], object], script: str, argument: Any = None) -> None:
        """Make a gesture until a script in the page says that it was taken: a busy page may miss one."""
        for _ in range(TRIES):
            gesture()
            with suppress(PageTimeoutError):
                self.page.wait_for_function(script, arg=argument, timeout=4000)
                return
        raise AssertionError(f"made {TRIES} times, and still not: {script}")

    def ask(self, script: str, argument: Any = None) -> Any:
        """The value of a script in the page."""
        return self.page.evaluate(script, argument)

    def settle(self) -> None:
        """Wait until what was changed is drawn."""
        self.ask("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        self.page.wait_for_timeout(150)

    def picture(self, file: Path, *titles: str) -> None:
        """Save what is seen as a small JPG, the nodes of these titles filling the canvas."""
        if titles:
            self.ask(SHOW, list(titles))
        self.settle()
        with Image.open(io.BytesIO(self.page.screenshot())) as shot:
            file.parent.mkdir(parents=True, exist_ok=True)
            shot.convert("RGB").resize((960, 600), Image.Resampling.LANCZOS).save(file, quality=80, optimize=True)

    # --- workflows ------------------------------------------------------------------------------------------------

    def drop(self, file: Path) -> None:
        """Drag a file from the desktop onto the canvas, and wait for as many nodes as it holds."""
        content = file.read_bytes()
        workflow = json.loads(content if file.suffix == ".json" else _workflow_in(content))
        self.ask(DROP, [base64.b64encode(content).decode(), file.name, MEDIA_TYPES[file.suffix], *EMPTY_PLACE])
        self.wait_for_nodes(len(workflow["nodes"]))

    def drop_on(self, title: str, file: Path) -> None:
        """Drag a picture from the desktop onto a Load Image, and wait until it shows it."""
        self.ask(SHOW, [title])
        self.settle()
        place = self.ask(ON_SCREEN, [title, 0.5, 0.5])
        self.ask(DROP, [base64.b64encode(file.read_bytes()).decode(), file.name, MEDIA_TYPES[file.suffix], *place])
        shows = """([title, name]) => {
            const node = app.graph.nodes.find((node) => node.title === title)
            return node.widgets[0].value.includes(name) && node.imgs?.[0]?.src.includes(name) && node.imgs[0].naturalWidth > 0
        }"""
        self.page.wait_for_function(shows, arg=[title, file.stem])

    def wait_for_nodes(self, number: int) -> None:
        """Until the canvas holds this many, and nothing lies over the page any more."""
        self.page.wait_for_function("(number) => app.graph.nodes.length === number", arg=number)
        self.page.wait_for_function("(busy) => !document.querySelector(busy)", arg=BUSY)
        self.settle()

    def dismiss(self) -> None:
        """Take the messages at the page's edge away."""
        self.ask("() => { const { toast } = app.extensionManager; (toast.removeAll ?? toast.dismissAll)() }")
        self.page.wait_for_function("(toast) => !document.querySelector(toast)", arg=TOAST)

    def clear(self) -> None:
        """Close what is open, and empty the canvas."""
        self.dismiss()  # one may lie over a dialog
        for _ in range(4):
            if not (number := self.page.locator(CLOSE).count()):
                break
            self.page.locator(CLOSE).last.click()
            fewer = "([close, number]) => document.querySelectorAll(close).length < number"
            with suppress(PageTimeoutError):  # what is closed may have lain over another
                self.page.wait_for_function(fewer, arg=[CLOSE, number], timeout=2000)
        self.page.keyboard.press("Escape")
        self.ask("() => { app.graph.clear(); pageChecks.events = [] }")
        self.complaints.clear()

    def search(self) -> Locator:
        """The node search, opened as a person does it; its field.

        On a busy machine the page may take a double click for two clicks: then it is double-clicked again.
        """
        self.ask("() => app.canvas.deselectAll()")
        self.settle()

        def double_click() -> None:
            self.page.keyboard.press("Escape")
            self.page.mouse.dblclick(*EMPTY_PLACE)

        self.until(double_click, "(field) => document.querySelector(field)?.offsetHeight > 0", SEARCH_FIELD)
        return self.page.locator(SEARCH_FIELD).first

    def add_from_search(self, name: str) -> None:
        """Choose what the search lists under this name, and lay it on the empty canvas."""
        self.search().fill(name)
        self.page.locator(SEARCH_RESULT).filter(has_text=name).first.wait_for()
        self.page.keyboard.press("Enter")
        self.page.wait_for_function("(field) => !document.querySelector(field)?.offsetHeight", arg=SEARCH_FIELD)
        laid = "() => app.graph.nodes.length === 1 && !app.graph.nodes[0].flags.ghost"  # it hangs on the mouse before
        self.until(lambda: self.page.mouse.click(800, 600), laid)

    def faults(self) -> list[str]:
        """What is wrong with the graph on the canvas."""
        return list(self.ask("() => pageChecks.faults()"))

    def prompt(self) -> dict[str, Any]:
        """What the page would send: id -> class and inputs."""
        prompt = self.ask("async () => (await app.graphToPrompt()).output")
        return {node_id: (node["class_type"], node["inputs"]) for node_id, node in prompt.items()}

    def widget_values(self, title: str) -> dict[str, Any]:
        """Name -> value of a node's widgets."""
        script = "(title) => app.graph.nodes.find((node) => node.title === title).widgets.map((w) => [w.name, w.value])"
        return dict(self.ask(script, title))

    def set_widget(self, title: str, name: str, value: Any) -> None:
        """Give a widget another value."""
        script = """([title, name, value]) => {
            const widget = app.graph.nodes.find((node) => node.title === title).widgets.find((w) => w.name === name)
            widget.value = value
        }"""
        self.ask(script, [title, name, value])

    def few_steps(self) -> None:
        """Two steps of every sampler, of those in subgraphs too: for what is the same after two and after many."""
        self.ask(FEW_STEPS)

    def show_all(self) -> None:
        """Bring the whole workflow into view, with the pictures of its last run, and wait until it rests."""
        self.ask("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
        self.ask(VIEW_RESTS)
        self.page.wait_for_function(PICTURES_ARE_THERE)
        self.settle()

    # --- runs -----------------------------------------------------------------------------------------------------

    def press_run(self) -> None:
        """Press Run, and wait for nothing."""
        self.page.locator(RUN).first.click()

    def run(self, seconds: float = 120) -> list[dict[str, Any]]:
        """Press Run; the events until the end of it."""
        self.ask("() => { pageChecks.events = [] }")
        self.press_run()
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            events = self.ask("() => pageChecks.events")
            for number, event in enumerate(events):
                if event["type"] in ("execution_success", "execution_error", "rejected"):
                    return list(events[: number + 1])  # older hosts: web/shown_again.js sends more after it
            self.page.wait_for_timeout(100)
        raise TimeoutError(f"the run did not end in {seconds} s")

    def shown(self, title: str) -> tuple[dict[str, Any], Image.Image]:
        """What a node's last run left in the page, and the picture that the node shows."""
        find = "app.graph.nodes.find((node) => node.title === title)"
        self.page.wait_for_function(f"(title) => {find}.imgs?.[0]?.naturalWidth > 0", arg=title)
        output = self.ask(f"(title) => app.nodeOutputs[{find}.id]", title)
        source = self.ask(f"(title) => {find}.imgs[0].src", title)
        with urllib.request.urlopen(source, timeout=60) as answer, Image.open(io.BytesIO(answer.read())) as picture:
            return output, picture.convert("RGB")

    def line(self, title: str) -> str:
        """The line of text that is seen on a node after its run."""
        self.ask(SHOW, [title])
        self.settle()
        find = (
            "app.graph.nodes.find((node) => node.title === title).widgets.find((widget) => widget.name === 'pfv_line')"
        )
        shows = f"(title) => {{ const line = {find}?.element; return line?.offsetHeight >= 12 && line.innerText }}"
        return str(self.page.wait_for_function(shows, arg=title).json_value())

    def paint(self, title: str, stroke: list[tuple[int, int]]) -> None:
        """Open a Load Image in the mask editor, draw one stroke through these pixels of its image, and save."""
        page = self.page
        node = "app.graph.nodes.find((node) => node.title === title)"
        page.wait_for_function(f"(title) => {node}.imgs?.[0]?.naturalWidth > 0", arg=title)
        self.ask(f"(title) => {{ app.canvas.deselectAll(); app.canvas.select({node}) }}", title)
        self.ask("() => { app.extensionManager.command.execute('Comfy.MaskEditor.OpenMaskEditor') }")
        page.wait_for_function(MASK_CANVAS_PLACE, arg=[MASK_CANVAS, title])
        place = None
        while place != (place := self.ask(MASK_CANVAS_PLACE, [MASK_CANVAS, title])) or place is None:
            page.wait_for_timeout(400)  # it zooms itself in
        left, top, scale = place
        places = [(left + x * scale, top + y * scale) for x, y in stroke]
        page.mouse.move(*places[0])
        page.wait_for_timeout(100)
        page.mouse.down()
        for place in places:
            page.mouse.move(*place)
            page.wait_for_timeout(30)  # one point a frame is drawn
        page.mouse.up()
        page.wait_for_timeout(300)

    def save_mask(self, title: str) -> None:
        """Press Save in the mask editor, and wait until the node has the painted picture."""
        before = self.widget_values(title)["image"]
        self.page.locator(MASK_SAVE).first.click()
        changed = """([editor, title, before]) => !document.querySelector(editor)
            && app.graph.nodes.find((node) => node.title === title).widgets[0].value !== before"""
        self.page.wait_for_function(changed, arg=[MASK_EDITOR, title, before])

    # --- around the canvas ----------------------------------------------------------------------------------------

    def problem(self, *words: str) -> str:
        """What the page says is wrong, with its details, once it says so in these words; they stay open.

        Where the words do not come, it is what the page says after a while.
        """
        said = self.page.locator(f"{DIALOG}, {CARD}").last
        said.wait_for()
        text = said.inner_text()
        if self.page.locator(CARD).count():
            self.page.locator(CARD_MORE).click()
            details = self.page.locator(DETAILS)
            details.locator("[data-testid^='error-']").first.wait_for()
            text += "\n" + self._text_at_rest(details, words)
        return text

    def _text_at_rest(self, place: Locator, words: tuple[str, ...]) -> str:
        """Its text once that has the words and has stopped growing: of an error the page fetches a report first."""
        before, text = None, place.inner_text()
        deadline = time.monotonic() + REPORT_SECONDS
        while time.monotonic() < deadline and (text != before or not all(word in text for word in words)):
            self.page.wait_for_timeout(500)
            before, text = text, place.inner_text()
        return text

    def toast(self, words: str) -> str:
        """What a message at the page's edge says, once there is one with these words."""
        message = (
            self.page.locator("[role=alert], [data-sonner-toast], [data-testid^='toast']").filter(has_text=words).last
        )
        message.wait_for()
        return message.inner_text()

    def toasts(self, words: str) -> int:
        """How many messages at the page's edge have these words."""
        self.settle()
        return self.page.locator(TOAST).filter(has_text=words).count()

    def has(self, class_type: str) -> bool:
        """Whether the page knows a class of nodes."""
        return bool(self.ask("(type) => type in LiteGraph.registered_node_types", class_type))

    def says_nothing(self) -> bool:
        """Whether no dialog or card is open."""
        return not self.page.locator(f"{DIALOG}, {CARD}").count()

    def copied(self, button: str) -> str:
        """What a press on the button of this name leaves in the clipboard."""
        self.ask("() => navigator.clipboard.writeText('')")
        self.page.get_by_role("button", name=button).first.click()
        return str(self.page.wait_for_function("() => navigator.clipboard.readText()").json_value())

    def click_title(self, title: str) -> None:
        """A real click onto a node's title bar, which selects it."""
        self.ask(SHOW, [title])
        self.settle()
        selected = "(title) => Object.values(app.canvas.selected_nodes).some((node) => node.title === title)"
        self.until(lambda: self.page.mouse.click(*self.ask(ON_SCREEN, [title, 0.5, -1])), selected, title)


def _workflow_in(png: bytes) -> str:
    with Image.open(io.BytesIO(png)) as image:
        return str(image.info["workflow"])
