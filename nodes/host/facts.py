"""The facts of a run, for every patch of this pack: which rows are negative, which image, where in the frame, what schedule.

Nothing is inferred from an index, a shape or the moment of patching: `tracking` lets the conditions carry the facts, and here
is what arrives. Where a fact does not arrive, the call is refused and what stands between named.

    Run     one sampling: frame, schedule in force, what each patch keeps for it, what the user was told
    Call    one call of the model: its rows, and the noise level
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from ...pfv_core.attention.query_mask import LATENT_SCALE, frame_matches, query_mask
from .schedule import NoiseSchedule, Window
from .told import drawing_node, tell

KEY = "pfv_mepa"  # of our wrappers, and of the run in the options of its calls
CALL = "pfv_call"  # of the call in its options
MAP = "pfv_map"  # of the map among a condition's tensors
UNKNOWN = -1  # in a map: row and column, image, or side
HIDDEN = "pfv_hidden"  # in the options of a block: what its query is made of, where other packs change what is attended

NEGATIVE = {"positive": False, "middle": False, "negative": True, "empty_negative_prompt": True}
"""The names that guiders have for their conditions -> whether the image prompt's negative answers to it."""

CROP, TILES = "MEPA Crop", "MEPA Tiles"  # who may say which part of the ad a run samples

Grid = tuple[int, int]
Options = dict[str, Any]


class Patch(Protocol):
    """What this pack puts into a model. Never changed; what a run computes lives in its state."""

    def begin(self, run: Run) -> Any:
        """The patch's state for a run; ValueError if the patch does not fit the run."""


class Row(NamedTuple):
    """One row of a call: whether its prompt is a negative one (None = its guider's name for it does not say), its image of
    the batch (None = one of them, nobody says which), and its corner in latent pixels (None = nobody says where it lies)."""

    negative: bool | None
    image: int | None
    corner: Grid | None

    def among(self, count: int) -> int:
        """Which it has of `count`, one for all images or one for each; `Call.check_images` has looked that this is known."""
        if count == 1:
            return 0
        assert self.image is not None
        return self.image % count


@dataclass(frozen=True)
class Crop:
    """The part of an ad that is sampled as a picture of its own, in image pixels, and which node says so.

    Raises:
        ValueError: a part that is empty or reaches out of the ad.
    """

    top: int
    left: int
    height: int
    width: int
    ad_height: int
    ad_width: int
    said_by: str = CROP

    def __post_init__(self) -> None:
        for start, length, whole, axis in (
            (self.left, self.width, self.ad_width, "x"),
            (self.top, self.height, self.ad_height, "y"),
        ):
            if start < 0 or length < 1 or start + length > whole:
                raise ValueError(
                    f"{self.said_by}: along {axis} the part goes from {start} to {start + length}, the ad from 0 to {whole}: "
                    "give a part that lies in the ad, and the ad's own size"
                )

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the ad."""
        return (self.height, self.width) == (self.ad_height, self.ad_width)

    def of(self, mask: Tensor, name: str) -> Tensor:
        """That part of a mask (R, H, W), or of a picture (R, H, W, C); ValueError unless it has the ad's size."""
        if tuple(mask.shape[1:3]) != (self.ad_height, self.ad_width):
            raise ValueError(
                f"{name} is {mask.shape[1]}x{mask.shape[2]}, {self.said_by} says that the ad is {self.ad_height}x"
                f"{self.ad_width} (height x width): give it the ad's size"
            )
        return mask[:, self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(eq=False)
class Run:
    """One sampling.

    Attributes:
        guider: the name of its guider's class, for messages.
        batch: images that are sampled.
        latent_size: rows and columns of the latent that is sampled.
        crop: the part of the ad that it is, None = the whole.
        between: what else may change the model's calls, for messages.
        patcher: the host's ModelPatcher of what is sampled.
        patches: of ours, in what is sampled.
        replaced: by kind and block, the callables in the host's attention slots as the run begins.
        sampling: the host's `model_sampling` in force, once the model is loaded.
        sigmas: (steps + 1,) noise levels at which its steps begin, and where the last one ends, from then on.
        sampler: the name of the sampler's function, once it runs.
        evaluating: whether an evaluation of the model is under way.
        resized: whether it is of another size than the latent with which the run began, as of a sampler that enlarges it.
        nameless: names of conditions that do not say whether they are negative.
    """

    guider: str
    batch: int
    latent_size: Grid
    crop: Crop | None
    between: tuple[str, ...]
    patcher: Any = None
    patches: tuple[Any, ...] = ()
    replaced: Options = field(default_factory=dict)
    sampling: Any = None
    sigmas: Tensor | None = None
    sampler: str = ""
    evaluating: bool = False
    resized: bool = False
    nameless: set[str] = field(default_factory=set)
    _states: dict[int, tuple[Patch, Any]] = field(default_factory=dict)
    _told: set[str] = field(default_factory=set)

    def state(self, patch: Any) -> Any:
        """What a patch keeps for this run, made when it is first asked for."""
        if id(patch) not in self._states:
            self._states[id(patch)] = patch, patch.begin(self)
        return self._states[id(patch)][1]

    @property
    def states(self) -> list[Any]:
        """Of all patches, in the order in which they were put into the model."""
        return [state for _, state in self._states.values()]

    @cached_property
    def schedule(self) -> NoiseSchedule:
        """Timesteps of the model as it is sampled, whatever changed its sampling after our nodes."""
        return NoiseSchedule.of(self.sampling)

    def levels(self, window: Window, node: str) -> tuple[float, float]:
        """The window's highest and lowest noise level in the schedule in force; a window in which no step begins is said."""
        start, end = window.levels(self.sampling)
        if not window.whole and self.sigmas is not None:
            begins = self.sigmas[:-1].tolist()
            if not any(end <= sigma <= start for sigma in begins):
                self.tell(
                    f"{node}: none of the {len(begins)} steps of this sampling begins between start_percent "
                    f"{window.start_percent:g} and end_percent {window.end_percent:g}, so it has no effect, unless the sampler "
                    "evaluates the model within its steps"
                )
        return start, end

    def check_sides(self, node: str) -> None:
        """ValueError if the guider has conditions of which nobody says whether they are negative."""
        if self.nameless:
            names = ", ".join(f"'{name}'" for name in sorted(self.nameless))
            raise ValueError(
                f"{node}: the guider {self.guider} samples conditions that it calls {names}, and nobody says whether an image "
                f"prompt counts for or against them (known are {', '.join(NEGATIVE)}): use another guider with this model"
            )

    def check_batch(self, count: int, node: str, what: str) -> None:
        """ValueError unless there is one for all images of the batch, or one for each."""
        if count not in (1, self.batch):
            raise ValueError(
                f"{node}: {what} is a batch of {count}, {self.batch} image(s) are being sampled: give 1, or one for each image"
            )

    def placed(self, mask: Tensor, node: str, what: str, may_be_cut: bool = False) -> Tensor:
        """The part of a mask of the ad, (R, H, W), or of a picture, (R, H, W, C), that this run samples; ValueError where it
        cannot be that frame's. One that another node may have cut to what is sampled gives rise to no warning."""
        self.check_batch(mask.shape[0], node, what)
        if self.crop is not None:
            mask = self.crop.of(mask, f"{node}: {what}")
        height, width = (LATENT_SCALE * side for side in self.latent_size)
        size = (
            f"{what} is {mask.shape[1]}x{mask.shape[2]}, the image being sampled is {height}x{width} (height x width)"
        )
        if not frame_matches((mask.shape[1], mask.shape[2]), self.latent_size):
            raise ValueError(
                f"{node}: {size}: give it the image's shape, or say with {CROP} or {TILES} which part it is"
            )
        if self.crop is None and not may_be_cut:
            self._tell_of_the_whole(mask)
        return mask

    def _tell_of_the_whole(self, mask: Tensor) -> None:
        """Where it may be otherwise, that a mask is taken for the whole of what is sampled."""
        size, (height, width) = mask.shape[1:3], (LATENT_SCALE * side for side in self.latent_size)
        if drawing := drawing_node():
            self.tell(
                f"MEPA: {drawing} encodes and decodes by itself. Where it cuts the ad into parts, masks of {size[0]}x{size[1]} "
                f"(height x width) are taken for the whole of each: give it prompts from {TILES}"
            )
        elif abs(size[0] - height) >= LATENT_SCALE <= abs(size[1] - width):
            self.tell(
                f"MEPA: the image being sampled is {height}x{width}, masks of {size[0]}x{size[1]} (height x width) are taken for "
                "the whole of it. Where a detailer or an upscaler samples a part of the ad as a picture of its own, put "
                f"{CROP} before it, or {TILES} on its prompts"
            )

    @property
    def stands_between(self) -> str:
        """What may have changed the model's calls, as a sentence of a message; empty where nothing is known."""
        names = [*self.between, *([f"the sampler {self.sampler}"] if self.sampler else [])]
        return f" Between the guider and the model stand {', '.join(names)}." if names else ""

    def tell(self, message: str) -> None:
        """Say something to the user once in a run."""
        if message not in self._told:
            self._told.add(message)
            tell(message)


@dataclass(frozen=True, eq=False)
class Call:
    """One call of the model.

    Attributes:
        run: that it is part of.
        rows: of its latent.
        sampled: rows and columns of its latent, the frame's or those of a part.
        sigmas: the noise level, the same in all of it.
        replaced: by kind and block, the callables in the host's attention slots.
        context_patches: what other packs do to a text's tokens before a cross-attention projects them.
        kept: what patches know for the rest of the call.
        network: the module whose attentions run, a U-Net on one of the devices or a ControlNet's.
        hooked: whether hooks have changed its weights for this call alone.
    """

    run: Run
    rows: tuple[Row, ...]
    sampled: Grid
    sigmas: Tensor
    replaced: Options = field(default_factory=dict)
    context_patches: tuple[Any, ...] = ()
    kept: dict[Any, Any] = field(default_factory=dict)
    network: Any = None
    hooked: bool = False

    @cached_property
    def sigma(self) -> float:
        """The noise level, read from the device where somebody asks for it and then known.

        Raises:
            RuntimeError: rows of one call at different levels, as a trainer has them.
        """
        levels = set(self.sigmas.flatten().tolist())
        if len(levels) > 1:
            raise RuntimeError(
                f"one call has {len(levels)} noise levels, as in training: a window, time weighting and a reference with noise "
                "need one; take the node off the model that is trained, or leave its window whole"
            )
        return float(levels.pop())

    def check_images(self, rows: tuple[Row, ...], count: int, node: str, what: str) -> None:
        """RuntimeError where there is one for each image, and nobody says which images the rows are."""
        if count > 1 and any(row.image is None for row in rows):
            raise RuntimeError(
                f"{node}: of the {self.run.batch} images that are being sampled the model was called with others than all at "
                f"once, and nobody says which, so {what}, one for each image, cannot be told apart.{self.run.stands_between} "
                "Give one for all images, or remove what takes the batch apart"
            )

    def rows_of(self, count: int, options: Options, node: str) -> tuple[Row, ...]:
        """The rows of an attention with `count` rows.

        Attention-couple packs repeat the rows of a chunk, and publish of which chunks of the host's theirs are made.
        """
        if count == len(self.rows):
            return self.rows
        host, couple = options.get("cond_or_uncond"), options.get("cond_or_uncond_couple")
        if host is None or couple is None or len(set(host)) != len(host):
            host, couple = (), ()  # chunks of one list of prompts cannot be told apart by it
        if host and couple and len(self.rows) % len(host) == 0 and count * len(host) == len(couple) * len(self.rows):
            batch = len(self.rows) // len(host)
            chunks = {index: self.rows[at * batch : (at + 1) * batch] for at, index in enumerate(host)}
            if set(couple) <= set(chunks):
                return tuple(row for index in couple for row in chunks[index])
        raise RuntimeError(
            f"{node}: another patch changed the number of rows in attention from {len(self.rows)} to {count} without saying "
            "which image and prompt each belongs to, as HyperTile does in self-attention: remove that patch"
        )


def call_of(options: Options, node: str) -> Call:
    """The facts of the call that these options belong to.

    Raises:
        RuntimeError: they did not arrive; the message names what stands between the sampler and the model.
    """
    call: Call | None = options.get(CALL)
    if call is not None:
        return call
    run: Run | None = options.get(KEY)
    if run is None:
        raise RuntimeError(
            f"{node}: the model is being run outside the host's samplers: remove the node from this model"
        )
    raise RuntimeError(
        f"{node}: the model was called without the conditions' facts, so nobody knows which rows are negative, which image "
        f"they are of and where in it they lie.{run.stands_between} Remove what calls the model with conditions of its own"
    )


def run_of(options: Options, node: str) -> Run:
    """The run that a call's options belong to; RuntimeError where the model is run by hand."""
    run: Run | None = options.get(KEY)
    if run is None:
        raise RuntimeError(
            f"{node}: the model is being run outside the host's samplers: remove the node from this model"
        )
    return run


def cells(mask: Tensor, grid: Grid, call: Call, corner: Grid | None, node: str) -> Tensor:
    """The share of each query's cell that a mask of the run's frame covers, in the part of it that a row samples.

    Args:
        mask: (1, H, W) float, 0..1, from `Run.placed`.
        grid: rows and columns of queries.
        call: gives the part's size.
        corner: top and left of the part, latent pixels.
        node: for messages.

    Returns:
        (rows * columns) float64, 0..1.

    Raises:
        RuntimeError: nobody says where the part lies.
    """
    (top, left), (height, width) = known_place(corner, call, node), call.sampled
    whole = call.run.latent_size
    if call.sampled == whole:
        return query_mask(mask, grid, whole)[0]
    part = query_mask(mask, whole, whole).view(1, *whole)[:, top : top + height, left : left + width]
    return query_mask(part, grid, call.sampled)[0]


def known_place(corner: Grid | None, call: Call, node: str) -> Grid:
    """The corner of a row; RuntimeError where nobody says where it lies."""
    if corner is None:
        raise RuntimeError(
            f"{node}: the model was called with a part of the picture, or with another size of it, and nobody says where in it "
            f"that lies, so no mask, region or hint can be placed.{call.run.stands_between} Disconnect it, or remove what takes "
            "the picture apart; with Context Windows over rows or columns choose context_schedule standard_static, whose windows "
            "say where they lie (since ComfyUI 0.4)"
        )
    return corner


def check_grid(options: Options, num_queries: int, node: str) -> Grid:
    """Rows and columns of an attention's queries; RuntimeError where another patch changed their number."""
    rows, columns = options["activations_shape"][-2:]
    if rows * columns != num_queries:
        raise RuntimeError(
            f"{node}: another patch changed the number of queries to {num_queries}, the grid is {rows}x{columns}: without a "
            "grid no mask can be placed; disconnect the mask or remove that patch"
        )
    return rows, columns


def name_of(function: Any) -> str:
    """Where a callable of another pack comes from."""
    return f"{function.__module__}.{getattr(function, '__qualname__', type(function).__name__)}"
