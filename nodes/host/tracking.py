"""How the facts of a run travel: on the conditions, which the host crops, slices and repeats together with the noise.

Before sampling begins every condition gets a map of the latent that is sampled: each latent pixel's own row and column, its
image of the batch, and whether its prompt is a negative one, which the guider's names for its conditions say. What arrives at
the model beside a call's latent says all of that for each of its rows, whatever guider, window or area stood between.

    track(model, patch)     at the node: the clone's runs are told of the patch
    facts_hook()            the same for conditions whose model was not told, such as a patched ControlNet's
    crop_runs(model, crop)  at the node: which part of the ad the clone's runs sample
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from comfy.conds import CONDNoiseShape
from comfy.hooks import EnumHookScope, EnumHookType, HookGroup, TransformerOptionsHook
from comfy.patcher_extension import WrapperExecutor, WrappersMP, add_wrapper_with_key, get_wrappers_with_key
from torch import Tensor

from .compiled import GuardedModules, compiled_run
from .context_patches import noted
from .facts import CALL, KEY, MAP, NEGATIVE, UNKNOWN, Call, Crop, Options, Patch, Row, Run, name_of
from .taken_apart import FUNCTION, map_of, numbered
from .tiles import taken_from

PATCHES = "pfv_patches"  # of a model's patches in its options
CROP = "pfv_crop"  # of the part of the ad that a model's runs sample

ONE_MODEL = "connect the same model, after all nodes of this pack, to both inputs, or use another guider"


def track(model: Any, patch: Patch, instead_of: Any = None) -> None:
    """Tell the runs of a clone of a model of a patch that it carries, in the place of another one where that is given."""
    options = model.model_options["transformer_options"]
    others = [known for known in options.get(PATCHES, ()) if known not in (instead_of, patch)]
    options[PATCHES] = (*others, patch)
    if not get_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY, options):
        # Among its options: there the host looks for a guider's second model too, and other packs leave them where they are.
        for kind, wrapper in {**_wrappers(), WrappersMP.PREPARE_SAMPLING: _around_the_loading}.items():
            add_wrapper_with_key(kind, KEY, wrapper, options)


def facts_hook(others: Any = None) -> Any:
    """A hook for conditions whose model was not told of a patch, such as those of a patched ControlNet: it lets the runs that
    they are part of carry their facts. `others` are hooks that are there already."""
    wrappers = {kind: {KEY: [wrapper]} for kind, wrapper in _wrappers().items()}
    group = HookGroup()
    group.add(TransformerOptionsHook({"wrappers": wrappers}, EnumHookScope.AllConditioning))
    return HookGroup.combine_all_hooks([others, group])


def patches_of(model: Any) -> tuple[Any, ...]:
    """What `track` was told of a model."""
    return tuple(model.model_options["transformer_options"].get(PATCHES, ()))


def crop_runs(model: Any, crop: Crop) -> Any:
    """A clone of a model whose runs sample this part of the ad."""
    clone = model.clone()
    clone.model_options["transformer_options"][CROP] = crop
    return clone


def read_map(
    run: Run,
    facts: Tensor | None,
    latent: Tensor,
    sigmas: Tensor,
    options: Options,
    replaced: Options | None = None,
    network: Any = None,
    hooked: bool = False,
    context_patches: tuple[Any, ...] = (),
) -> Call | None:
    """The call of a latent (rows, C, h, w), from the map that arrived with it; None where it is not that latent's. A map of
    another size, or whose pixels lie apart, or one of a run that is resized says of each row all but its place."""
    if facts is None or facts.shape[0] != latent.shape[0]:
        return None
    height, width = latent.shape[-2:]
    same_size = facts.shape[-2:] == latent.shape[-2:] and not run.resized
    rows: list[Row] = []
    # One read: in a ControlNet the map is on the device, which is waited for.
    corners = torch.stack([facts[:, :, 0, 0], facts[:, :, -1, -1]], 1).tolist()
    for (top, left, image, negative), (bottom, right, *_) in corners:
        cropped = same_size and top != UNKNOWN and (bottom, right) == (top + height - 1, left + width - 1)
        side, known = None if negative < 0 else bool(negative), None if image < 0 else image
        rows.append(Row(side, known, (top, left) if cropped else None))
    return Call(
        run, tuple(rows), (height, width), sigmas, replaced or {}, context_patches, network=network, hooked=hooked
    )


def _innermost(wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """A wrapper that is within those of all other packs, whatever the order of nodes: what they change it sees, and what is said
    of a call goes through their hands. The host's compiled modules alone are within it."""

    @wraps(wrapper)
    def last(executor: Any, *args: Any, **kwargs: Any) -> Any:
        within = executor.wrappers[executor.idx + 1 :]
        compiled = [one for one in within if isinstance(one, GuardedModules)]
        others = [one for one in within if one is not last and one not in compiled]
        if not others:
            return wrapper(executor, *args, **kwargs)
        order = [*others, last, *compiled]
        return WrapperExecutor(executor.original, executor.class_obj, order, 0).execute(*args, **kwargs)

    return last


def _wrappers() -> dict[str, Callable[..., Any]]:
    """Of a run, each from within the one before; a model and a hook may both bring them, then the outer ones do the work."""
    return {
        WrappersMP.OUTER_SAMPLE: _around_the_run,
        WrappersMP.SAMPLER_SAMPLE: _around_the_sampler,
        WrappersMP.PREDICT_NOISE: _around_an_evaluation,
        WrappersMP.APPLY_MODEL: _around_the_model,
    }


@_innermost
def _around_the_run(executor: Any, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Around all of a sampling: the guider's conditions and its own copy of the options get the facts, as long as it lasts: a
    wrapper of another pack may sample several times."""
    guider = executor.class_obj
    options = guider.model_options.setdefault("transformer_options", {})
    if KEY in options:
        return executor(noise, *args, **kwargs)
    _check_one_model(guider, options)
    given, function = guider.conds, guider.model_options.get(FUNCTION)
    guider.conds = {name: [dict(condition) for condition in conditions] for name, conditions in given.items()}
    try:
        options[KEY] = run = _run_of(guider, options, noise)
        if function is not None:
            guider.model_options[FUNCTION] = numbered(function)
        with compiled_run(guider, run.tell):
            return executor(noise, *args, **kwargs)
    finally:
        guider.conds = given
        options.pop(KEY, None)
        if function is not None:
            guider.model_options[FUNCTION] = function


def _run_of(guider: Any, options: Options, noise: Tensor) -> Run:
    """The run of a sampling that begins; its conditions get their maps, and lose what said which tile they are of."""
    crop, tile = options.get(CROP), taken_from(guider.conds, noise.shape[0])
    if crop is not None and tile is not None:
        raise ValueError(
            f"MEPA: {crop.said_by} and {tile.said_by} both say which part of the ad is sampled: use one of them"
        )
    run = Run(
        type(guider).__name__,
        noise.shape[0],
        (noise.shape[-2], noise.shape[-1]),
        crop or tile,
        tuple(_named(guider.model_options, options)),
        guider.model_patcher,
        options.get(PATCHES, ()),
        options.get("patches_replace", {}),
    )
    if tile is not None and tile.is_whole:
        run.tell(f"{tile.said_by}: one tile is the whole ad")
    for name, conditions in guider.conds.items():
        for condition in conditions:
            condition["model_conds"] = {**condition.get("model_conds", {}), MAP: _map(noise, run, name)}
    return run


def _check_one_model(guider: Any, options: Options) -> None:
    """The host's DualModelGuider runs the patches and the crop of its first model in both, and those of the second in none."""
    other = getattr(guider, "uncond_model_patcher", None)
    if other is None:
        return
    own, theirs = options, other.model_options["transformer_options"]
    same = all(own.get(key) == theirs.get(key) for key in (PATCHES, CROP))
    if not same or (own.get(PATCHES) and not other.is_clone(guider.model_patcher)):
        raise ValueError(
            f"MEPA: the guider {type(guider).__name__} samples the negative with another model, and would run the patches of the "
            f"first one in both: {ONE_MODEL}"
        )


@_innermost
def _around_the_loading(
    executor: Any, model: Any, noise_shape: Any, conditions: dict[str, list[Options]], *args: Any, **kwargs: Any
) -> Any:
    """Around the loading of a model for a run, which has given the conditions their facts: else the model is the second one of
    a guider whose first one has no part of this pack."""
    if any(MAP not in condition.get("model_conds", {}) for several in conditions.values() for condition in several):
        raise ValueError(
            "MEPA: this model is sampled as a second one, as Dual Model CFG Guider samples model_negative, and would lose what "
            f"the nodes of this pack have put into it, for the first one has none of it: {ONE_MODEL}"
        )
    return executor(model, noise_shape, conditions, *args, **kwargs)


@_innermost
def _around_the_sampler(executor: Any, guider: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Around the steps, when the model is loaded as it will be sampled: each patch looks whether it fits."""
    options = guider.model_options["transformer_options"]
    run: Run = options[KEY]
    if run.sampling is not None:
        return executor(guider, sigmas, *args, **kwargs)
    run.sampling, run.sigmas = guider.inner_model.model_sampling, sigmas
    sampler = executor.class_obj
    run.sampler = getattr(getattr(sampler, "sampler_function", None), "__name__", type(sampler).__name__)
    for patch in run.patches:
        run.state(patch)
    with _conditions_made_later(guider.inner_model, run):
        return executor(guider, sigmas, *args, **kwargs)


@_innermost
def _around_an_evaluation(
    executor: Any, x: Tensor, sigma: Tensor, model_options: Options | None = None, seed: int | None = None
) -> Tensor:
    """Around each evaluation of the model, which may be several calls of it."""
    guider = executor.class_obj
    options = guider.model_options if model_options is None else model_options
    run: Run = options["transformer_options"][KEY]
    if run.evaluating:
        return executor(x, sigma, options, seed)
    run.evaluating, run.resized = True, x.shape[-2:] != run.latent_size
    try:
        for state in run.states:
            if hasattr(state, "evaluate"):
                state.evaluate(guider, sigma)
        return executor(x, sigma, options, seed)
    finally:
        run.evaluating = False


@_innermost
def _around_the_model(
    executor: Any,
    x: Tensor,
    t: Tensor,
    c_concat: Tensor | None = None,
    c_crossattn: Tensor | None = None,
    control: Any = None,
    transformer_options: Options | None = None,
    **kwargs: Any,
) -> Tensor:
    """Around a call of the model, which is not to see our condition."""
    options = {} if transformer_options is None else transformer_options
    facts, run = kwargs.pop(MAP, None), options.get(KEY)
    if facts is not None or CALL not in options:
        model, replaced = executor.class_obj, options.get("patches_replace")
        own = replaced, model.diffusion_model, _has_weight_hooks(model), noted(options)
        options[CALL] = None if run is None else read_map(run, map_of(x, facts, options), x, t, options, *own)
    return executor(x, t, c_concat, c_crossattn, control, options, **kwargs)


def _has_weight_hooks(model: Any) -> bool:
    """Whether the condition of this call has changed the weights that the model is loaded with."""
    hooks = getattr(model.current_patcher, "current_hooks", None)
    return hooks is not None and bool(hooks.get_type(EnumHookType.Weight))


@contextmanager
def _conditions_made_later(model: Any, run: Run) -> Iterator[None]:
    """Conditions that the host encodes during a run, as its first Perp-Neg node does, get their facts too."""
    encode: Callable[..., dict[str, Any]] = model.extra_conds
    replaced = model.__dict__.get("extra_conds")  # by another pack, for this model alone

    def with_facts(**inputs: Any) -> dict[str, Any]:
        return {**encode(**inputs), MAP: _map(inputs["noise"], run, inputs["prompt_type"])}

    model.extra_conds = with_facts
    try:
        yield
    finally:
        del model.extra_conds  # the class's own is seen again
        if replaced is not None:
            model.extra_conds = replaced


class _Map(CONDNoiseShape):
    """A condition that knows when it is cut or repeated to the number of images that a sampler evaluates: then nobody says
    which images these are. Who takes images out of the batch by their numbers takes them out of this too."""

    def process_cond(self, batch_size: int, **where: Any) -> Any:
        """The host's, of the part of the frame and the number of images that are evaluated."""
        processed = super().process_cond(batch_size, **where)
        if len(self.cond) != batch_size:
            processed.cond = processed.cond.clone()
            processed.cond[:, 2] = UNKNOWN
        return processed


def _map(noise: Tensor, run: Run, name: str) -> _Map:
    """(B, 4, rows, columns) int32 on the CPU, so that reading it waits for no device: row, column, image (-1 where the noise is
    not the run's whole batch), negative (-1 where the condition's name does not say)."""
    if name not in NEGATIVE:
        run.nameless.add(name)
    batch, rows, columns = noise.shape[0], noise.shape[-2], noise.shape[-1]
    facts = torch.empty(batch, 4, rows, columns, dtype=torch.int32)
    facts[:, 0], facts[:, 1] = torch.arange(rows)[:, None], torch.arange(columns)[None]
    facts[:, 2] = torch.arange(batch)[:, None, None] if batch == run.batch else UNKNOWN
    facts[:, 3] = int(NEGATIVE.get(name, UNKNOWN))
    return _Map(facts)


def _named(model_options: Options, options: Options) -> Iterator[str]:
    """What of other packs stands between the sampler and the model."""
    names = (FUNCTION, "sampler_calc_cond_batch_function", "context_handler")
    found = [model_options.get(name) for name in names]
    wrappers = options.get("wrappers", {}).get(WrappersMP.CALC_COND_BATCH, {})
    found += [wrapper for keyed in wrappers.values() for wrapper in keyed]
    return (name_of(function) for function in found if function is not None)
