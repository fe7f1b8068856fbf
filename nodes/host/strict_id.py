"""Strictly-ID's ControlNet as the host's CONTROL_NET: a hint of four channels, and pictures for its branches.

The branches are a part of the network, so the host moves, casts and frees them with it. What they are given travels where the
host lets a ControlNet carry arguments of its own for its network (`extra_args`, 0.3.64 and newer); as the network begins they
are taken out there, and as it ends they are gone. So one loaded file serves any number of nodes.

The hint says where the product stands. The host brings a hint to any latent, stretched, and to any rows, in turn: here each row
gets its own image's, of the part of the frame that it samples, as masks do.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import comfy.controlnet
import comfy.model_management
import comfy.ops
import comfy.utils
import torch
from torch import Tensor

from ...pfv_core.attention.balance import check_gamma
from ...pfv_core.reference.vit import ImageTokens
from ...pfv_core.research.control_branches import BranchInput, BranchInputs
from ...pfv_core.research.strict_id_file import HINT_CHANNELS, StrictIDConfig, load_strict_id
from .control_network import control_network
from .controlnet import Unhooked
from .facts import CALL, KEY, MAP, TILES, Call, Crop, Grid, Options, call_of, known_place
from .schedule import NoiseSchedule
from .taken_apart import map_of
from .tracking import facts_hook, read_map
from .unet import cross_attention_at, cross_attentions, family_of_context
from .whole_layers import whole_layers

NODE = "Strictly-ID Branches"
CONTROL = "Strictly-ID ControlNet"
INPUTS = "pfv_branches"  # of the pictures among a ControlNet's arguments


class Balance(str, Enum):
    """AS_TRAINED takes what the file says of its training."""

    AS_TRAINED = "as_trained"
    ON = "on"
    OFF = "off"


class Cut(NamedTuple):
    """Which parts of which hints the rows of a call have, in latent pixels: of a crop of the ad, its frame and what of that is
    sampled, image and corner of each row; one where they are alike."""

    crop: Crop | None
    frame: Grid
    sampled: Grid
    spots: tuple[tuple[int, Grid], ...]


class StrictIDControl(Unhooked, comfy.controlnet.ControlNet):
    """The host's ControlNet, with what a Strictly-ID file says of itself.

    Args:
        network: with its branches in it; None = that of another one, see `copy`.
        config: of the file.
        load_device, manual_cast_dtype: the host's.
    """

    cond_hint: Tensor | None

    def __init__(self, network: Any, config: StrictIDConfig, load_device: Any, manual_cast_dtype: Any) -> None:
        super().__init__(network, load_device=load_device, manual_cast_dtype=manual_cast_dtype)
        self.config = config
        self.hooks_of_others = None
        self.extra_hooks = facts_hook()
        # The hint of a cut, kept until the run ends: another pack may put its own into cond_hint.
        self._kept: tuple[Cut, Tensor] | None = None

    @property
    def inputs(self) -> BranchInputs | None:
        """The pictures of its branches; None = none."""
        return self.extra_args.get(INPUTS)

    def copy(self) -> StrictIDControl:
        """The host's way to make another one of the same network."""
        made = StrictIDControl(None, self.config, self.load_device, self.manual_cast_dtype)
        made.control_model = self.control_model
        made.control_model_wrapped = self.control_model_wrapped
        self.copy_to(made)
        made.hooks_of_others = self.hooks_of_others
        return made

    def set_cond_hint(self, cond_hint: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The host's Apply ControlNet hands in the hint. ValueError where it has no scale map."""
        if cond_hint.shape[1] != HINT_CHANNELS:
            raise ValueError(
                f"the hint has {cond_hint.shape[1]} channels, this Strictly-ID ControlNet takes {HINT_CHANNELS}, the product's "
                "three and the scale map: connect hint of PFV Scale Map to the image input of Apply ControlNet"
            )
        return super().set_cond_hint(cond_hint, *args, **kwargs)

    def get_control(
        self, x_noisy: Tensor, t: Tensor, cond: Options, batched_number: int, transformer_options: Options
    ) -> Any:
        """The host's call for the residuals of some rows; their hints are put where it keeps its own.

        Raises:
            ValueError: a hint of another shape than the frame's, or neither one nor one for each image.
            RuntimeError: facts of the rows did not arrive.
        """
        options = transformer_options
        run, cond = options.get(KEY), {**cond, MAP: map_of(x_noisy, cond.get(MAP), options)}
        facts = None if run is None else read_map(run, cond[MAP], x_noisy, t, options, network=self.control_model)
        call = call_of({**options, CALL: facts}, CONTROL)
        placed, cut = _placed(self, call)
        if self._kept is None or self._kept[0] != cut:
            dtype = self.manual_cast_dtype or self.control_model.dtype
            self._kept = cut, _hints(self, placed, cut).to(x_noisy.device, dtype)
        self.cond_hint = self._kept[1]
        return super().get_control(x_noisy, t, cond, batched_number, options)

    def cleanup(self) -> None:
        """The run has ended."""
        super().cleanup()
        self._kept = None

    def pre_run(self, model: Any, percent_to_timestep_function: Any) -> None:
        """The host is about to sample. ValueError where the model is of another base, or its schedule does not know gamma."""
        own, found = self.config.sizes.context_dim, model.model_config.unet_config.get("context_dim")
        if found != own:
            theirs = "no text context" if found is None else f"one of {found} ({family_of_context(found)})"
            raise ValueError(
                f"the Strictly-ID ControlNet is for {self.config.base} with a text context of {own} channels, the model that is "
                f"sampled has {theirs}: load the file for this model's base"
            )
        if self.inputs is not None and self.inputs.appearance is not None and self.inputs.gamma is not None:
            _check_schedule(model.model_sampling, self.inputs.gamma)
        super().pre_run(model, percent_to_timestep_function)


@whole_layers()
def load_control(path: Path) -> StrictIDControl:
    """Load a file.

    Raises:
        StrictIDFileError: see `pfv_core.research.strict_id_file.load_strict_id`.
        ValueError: tensors that are missing or not those of a ControlNet.
    """
    file = load_strict_id(path, comfy.ops.manual_cast)
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(
        model_params=-1, weight_dtype=comfy.utils.weight_dtype(dict(file.network))
    )
    cast = comfy.model_management.unet_manual_cast(dtype, device)
    network = control_network(
        file.network,
        f"{path.name} does not hold a whole ControlNet",
        "Fetch it again, or take it as python -m lab.train of the pack's repository wrote it",
        dtype=dtype,
        operations=comfy.ops.pick_operations(dtype, cast),
        **_heads(path, file.config),
    )
    places = cross_attentions(network)
    file.branches.attach([cross_attention_at(network, place.key) for place in places])
    network.branches = file.branches
    network.register_forward_pre_hook(_begin, with_kwargs=True)
    network.register_forward_hook(_end, with_kwargs=True, always_call=True)
    return StrictIDControl(network, file.config, device, cast)


def with_pictures(
    control_net: Any,
    pose: tuple[ImageTokens, float] | None,
    appearance: tuple[ImageTokens, float] | None,
    std_norm: Balance,
    time_weighting: Balance,
    gamma: float,
) -> StrictIDControl:
    """Another CONTROL_NET of the same network, whose branches are given pictures.

    Args:
        control_net: from `load_control`.
        pose, appearance: the encoded picture and how much it counts, 1 = as trained; None = none.
        std_norm, time_weighting: whether the appearance is balanced so, see `BranchInputs`.
        gamma: of a time weighting that is on, timesteps.

    Raises:
        ValueError: another kind of ControlNet, several pictures at once, another encoder's, or some with patches left out.
    """
    if not isinstance(control_net, StrictIDControl):
        raise ValueError(
            f"{NODE}: control_net is a {type(control_net).__name__} without branches: load a Strictly-ID file with Strictly-ID "
            "Load ControlNet"
        )
    given = {"pose": pose, "appearance": appearance}
    inputs = {name: None if one is None else _input(control_net.config, name, *one) for name, one in given.items()}
    norm = {Balance.AS_TRAINED: control_net.config.std_norm, Balance.ON: True, Balance.OFF: False}[std_norm]
    late = {Balance.AS_TRAINED: control_net.config.gamma, Balance.ON: gamma, Balance.OFF: None}[time_weighting]
    made = control_net.copy()
    made.set_extra_arg(INPUTS, BranchInputs(**inputs, std_norm=norm, gamma=late))
    return made


def _placed(control: StrictIDControl, call: Call) -> tuple[Tensor, Cut]:
    """The hints of the frame, (R, 4, H, W), and what the rows of a call have of them."""
    run = call.run
    if run.crop is not None and run.crop.said_by == TILES:
        raise ValueError(
            f"{CONTROL}: {TILES} says where masks lie, and nobody says whether the upscaler has cut the hint to its tile too: "
            "sample the parts one by one, with MEPA Crop"
        )
    hint = run.placed(control.cond_hint_original.movedim(1, -1), CONTROL, "the hint", may_be_cut=True).movedim(-1, 1)
    call.check_images(call.rows, len(hint), CONTROL, "the hint")
    spots = tuple((row.among(len(hint)), known_place(row.corner, call, CONTROL)) for row in call.rows)
    return hint, Cut(run.crop, run.latent_size, call.sampled, spots[:1] if len(set(spots)) == 1 else spots)


def _hints(control: StrictIDControl, hint: Tensor, cut: Cut) -> Tensor:
    """(rows, 4, H, W), or of one row for all, of the hints of a frame."""
    scale = control.compression_ratio
    (height, width), (rows, columns) = (tuple(scale * side for side in size) for size in (cut.frame, cut.sampled))
    whole = comfy.utils.common_upscale(hint, width, height, control.upscale_algorithm, "center")
    corners = [(image, scale * top, scale * left) for image, (top, left) in cut.spots]
    parts = [whole[image : image + 1, :, top : top + rows, left : left + columns] for image, top, left in corners]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _input(config: StrictIDConfig, name: str, tokens: ImageTokens, weight: float) -> BranchInput:
    config.check_tokens(tokens, f"{NODE}: {name}")
    if len(tokens) != 1:
        raise ValueError(f"{NODE}: {name} holds {len(tokens)} pictures, expected 1, which serves all images of a batch")
    return BranchInput(tokens.last[0][None], weight)


def _heads(path: Path, config: StrictIDConfig) -> dict[str, int]:
    """The heads of a network as the host is told of them: how many, or how wide, the same everywhere."""
    counts = set(config.sizes.heads)
    widths = {width / heads for width, heads in zip(config.sizes.widths, config.sizes.heads, strict=True)}
    if len(counts) == 1:
        return {"num_heads": counts.pop()}
    if len(widths) == 1:
        return {"num_head_channels": int(widths.pop())}
    raise ValueError(
        f"{path.name} has {config.sizes.heads} heads at widths of {config.sizes.widths}: the host knows ControlNets whose heads "
        "are everywhere as many or everywhere as wide"
    )


def _check_schedule(sampling: Any, gamma: float) -> None:
    if sampling.timestep(sampling.sigmas[:1]).is_floating_point():
        raise ValueError(
            f"{NODE}: the model is sampled by noise levels without timesteps (ModelSamplingContinuousEDM?), time weighting is by "
            "timesteps: set time_weighting to off"
        )
    check_gamma(gamma, NoiseSchedule.of(sampling).num_timesteps)


def _begin(network: Any, args: tuple[Any, ...], inputs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward hook of torch's: what the branches are given is theirs alone."""
    own = {name: value for name, value in inputs.items() if name != INPUTS}
    network.branches.begin(inputs.get(INPUTS), inputs["timesteps"], inputs["x"])
    return args, own


def _end(network: Any, args: tuple[Any, ...], inputs: dict[str, Any], output: Any) -> None:
    """Another one, also where the network has failed."""
    network.branches.end()
