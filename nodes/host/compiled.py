"""Models that torch.compile runs: the pack's patches in them stay as right as in a model that is not compiled.

The host's TorchCompileModel drops each guard on the options of a call, so code that was compiled for one block runs in
another with that block's patch, and code compiled for one model runs in the next. For a sampling that our patches are part
of, the same modules are compiled with every guard. Dynamo keeps compiled code with the Python code that it came from and
finds it by its backend, so ours is a backend of its own: nothing that was compiled without guards is ever found.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import comfy.utils
import torch
from comfy.patcher_extension import WrappersMP

from .facts import Options
from .operators import patches_as_operators

HOST_KEY = "torch.compile"  # of the host's wrapper around apply_model
HOST_KWARGS = "torch_compile_kwargs"  # in the model's options: what it compiled with
MODULES = "compiled_module_dict"  # in the closure of its wrapper
KEY = "pfv_compiled"  # in the options of a run that has been prepared
LIMITS = {  # of compiled variants of one function: a block is one, and SDXL has 70; the names are those of newer and older torch
    "recompile_limit": 4096,
    "accumulated_recompile_limit": 16384,
    "cache_size_limit": 4096,
    "accumulated_cache_size_limit": 16384,
}

Tell = Callable[[str], None]


@contextmanager
def compiled_run(guider: Any, tell: Tell) -> Iterator[None]:
    """Around `guider.outer_sample` of a model with our patches, whose options are the guider's own copy for this run.

    Args:
        guider: the host's.
        tell: says something to the user.
    """
    options = guider.model_options
    if KEY in options:
        yield
        return
    options[KEY] = True
    reason = _compile_with_guards(options)
    wrappers = options.setdefault("transformer_options", {}).setdefault("wrappers", {})
    wrappers.setdefault(WrappersMP.SAMPLER_SAMPLE, {})[KEY] = [partial(_around_the_sampler, reason, tell)]
    with _room_for_every_block() if _host_wrappers(options) else nullcontext():
        yield


def _around_the_sampler(reason: str | None, tell: Tell, executor: Any, guider: Any, *args: Any, **kwargs: Any) -> Any:
    """Where a model is compiled in a way that nobody can guard, sample it as if it were not; the model is loaded by now."""
    reason = reason or _compiled_elsewhere(guider.inner_model)
    if reason is None:
        return executor(guider, *args, **kwargs)
    tell(
        f"{reason}. PFV + MEPA cannot tell whether its patches stay right there, so this sampling runs without "
        "torch.compile, and is slower."
    )
    with _uncompiled():
        return executor(guider, *args, **kwargs)


@dataclass(frozen=True)
class GuardedBackend:
    """A backend of torch.compile that equals none but its like, so that its compiled code is found by nobody else.

    Attributes:
        backend: the name, or the callable, that the host was given.
        mode, options: what the host was given for it.
        dynamic: of torch.compile, on which some modes depend.
        fullgraph: of torch.compile.
    """

    backend: Any
    mode: str | None
    options: Options | None
    dynamic: bool | None
    fullgraph: bool = False

    def __hash__(self) -> int:
        return hash(str(self.backend))

    def __call__(self, graph: Any, inputs: list[Any]) -> Any:
        """The graph, compiled as the host's own backend would."""
        if self.backend == "inductor":
            import torch._inductor as inductor

            return inductor.compile(graph, inputs, options=self._settings())
        given = {"mode": self._mode, "options": self.options}
        return dynamo().lookup_backend(self.backend)(
            graph, inputs, **{name: value for name, value in given.items() if value}
        )

    def calls_operators(self) -> bool:
        """Whether what it makes calls our operators each time: CUDA graphs repeat what a call did, and of others who knows."""
        if self.backend != "inductor":
            return self.backend in ("eager", "aot_eager")
        import torch._inductor.config as config

        settings = self._settings()
        return not (
            settings.get("triton.cudagraphs", config.triton.cudagraphs)
            or settings.get("cpp_wrapper", config.cpp_wrapper)
        )

    @property
    def _mode(self) -> str | None:
        return None if self.mode == "default" else self.mode

    def _settings(self) -> Options:
        """Of inductor."""
        import torch._inductor as inductor

        settings = dict(inductor.list_mode_options(self._mode, self.dynamic)) if self._mode else {}
        return settings | {name.replace("-", "_"): value for name, value in (self.options or {}).items()}


_compilers: dict[GuardedBackend, Callable[[Any], Any]] = {}


def _compiler(backend: GuardedBackend) -> Callable[[Any], Any]:
    """Module -> compiled module: torch.compile, but where torch can, with one count of variants that is ours alone.

    Without it, a function that the host's own compiling has filled up would never be compiled for us.
    """
    if backend not in _compilers:
        optional = "isolate_recompiles"
        own = {optional: True} if optional in inspect.signature(torch.compile).parameters else {}
        _compilers[backend] = dynamo().optimize(backend, nopython=backend.fullgraph, dynamic=backend.dynamic, **own)
    return _compilers[backend]


def _host_wrappers(options: Options) -> list[Any]:
    """The host's wrappers that put compiled modules into the model, in the list that the run will read."""
    wrappers = options.get("transformer_options", {}).get("wrappers", {})
    found: list[Any] = wrappers.get(WrappersMP.APPLY_MODEL, {}).get(HOST_KEY, [])
    return found


def _compile_with_guards(options: Options) -> str | None:
    """Put wrappers of our own where the host's are; why not, if that cannot be done."""
    wrappers = _host_wrappers(options)
    if not wrappers:
        return None
    kwargs = options.get(HOST_KWARGS)
    modules = [_modules_of(wrapper) for wrapper in wrappers]
    if not isinstance(kwargs, dict) or any(found is None for found in modules):
        return "The model is compiled by a node that does not compile as the host's TorchCompileModel does"
    given = {name: value for name, value in (kwargs.get("options") or {}).items() if name != "guard_filter_fn"}
    dynamic, fullgraph = kwargs.get("dynamic"), bool(kwargs.get("fullgraph"))
    backend = GuardedBackend(kwargs.get("backend", "inductor"), kwargs.get("mode"), given, dynamic, fullgraph)
    operators = backend.calls_operators()
    if fullgraph and not operators:
        return "The model is compiled with fullgraph and CUDA graphs or a backend of its own, which allows no patches"
    compiler = _compiler(backend)
    wrappers[:] = [
        GuardedModules({key: compiler(module) for key, module in found.items()}, operators)
        for found in modules
        if found is not None
    ]
    around = options["transformer_options"]["wrappers"][WrappersMP.APPLY_MODEL]
    around[HOST_KEY] = around.pop(HOST_KEY)  # the last, within all others: what they say of a call is said by then
    return None


def _modules_of(wrapper: Any) -> dict[str, Any] | None:
    """The modules, not compiled, that a wrapper of the host has compiled; None where they cannot be read."""
    if not inspect.isfunction(wrapper):
        return None
    compiled = inspect.getclosurevars(wrapper).nonlocals.get(MODULES)
    if not isinstance(compiled, dict) or not all(_is_compiled(module) for module in compiled.values()):
        return None
    return {key: module._orig_mod for key, module in compiled.items()}


class GuardedModules:
    """A wrapper around apply_model: while the model runs, modules of it are the compiled ones.

    Attributes:
        modules: by their names in the model.
        operators: whether operators stand for our patches in them.
    """

    def __init__(self, modules: dict[str, Any], operators: bool) -> None:
        self.modules = modules
        self.operators = operators

    def __call__(
        self,
        executor: Any,
        x: Any,
        t: Any,
        c_concat: Any = None,
        c_crossattn: Any = None,
        control: Any = None,
        transformer_options: Options | None = None,
        **kwargs: Any,
    ) -> Any:
        """The model's output."""
        options = {} if transformer_options is None else transformer_options
        _let_the_steps_vary(options)
        model, own = executor.class_obj, {}
        try:
            for key, module in self.modules.items():
                own[key] = comfy.utils.set_attr(model, key, module)
            with patches_as_operators(options) if self.operators else nullcontext(options) as seen:
                return executor(x, t, c_concat, c_crossattn, control, seen, **kwargs)
        finally:
            for key, module in own.items():
                comfy.utils.set_attr(model, key, module)


def _let_the_steps_vary(options: Options) -> None:
    """The noise levels of a run come with every call: that there are more or fewer is no reason to compile again."""
    sigmas = options.get("sample_sigmas")
    if isinstance(sigmas, torch.Tensor):
        dynamo().maybe_mark_dynamic(sigmas, 0)


def _compiled_elsewhere(model: torch.nn.Module) -> str | None:
    """What of a loaded model is compiled other than by the host's wrapper, in words; None if nothing is."""
    for name, module in model.named_modules():
        if _is_compiled(module):
            return f"Another node has compiled {name} of the model"
    return None


def _is_compiled(module: Any) -> bool:
    """Whether torch.compile made a module, compiled it in place, or made a forward that was put into it."""
    if isinstance(module, dynamo().OptimizedModule) or getattr(module, "_compiled_call_impl", None) is not None:
        return True
    return hasattr(vars(module).get("forward"), "_torchdynamo_orig_callable")


def dynamo() -> Any:
    """What the host has imported by itself; here it is late, for a host that has not."""
    import torch._dynamo

    return torch._dynamo


@contextmanager
def _room_for_every_block() -> Iterator[None]:
    """While our compiled modules run, dynamo keeps a variant of a function for each block."""
    config = dynamo().config
    limits = {name: max(limit, getattr(config, name)) for name, limit in LIMITS.items() if hasattr(config, name)}
    with config.patch(limits):
        yield


def _uncompiled() -> AbstractContextManager[Any]:
    """Whatever is compiled runs as it was before; a torch without stances has no way to drop guards either."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    return nullcontext() if set_stance is None else set_stance("force_eager")
