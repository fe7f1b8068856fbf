"""The wires of a run's prompt, as the host hands it to a node: what a node depends on, and what its links may carry.

A prompt is {id: {"class_type", "inputs", "_meta"}}; an input is a value, or [id, output] of the node that gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nodes as host_nodes
from comfy_execution.graph import get_input_info
from comfy_execution.graph_utils import is_link

Prompt = Mapping[str, Mapping[str, Any]]
Link = tuple[str, int]
Told = dict[str, Any]
"""Facts of a node, by name."""

ANY = frozenset(("*", "COMFY_MATCHTYPE_V3"))  # an output of these is of the kind that goes in
PLAIN = frozenset(("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"))  # values that can be set on a node
HANDED_ON = {  # of the host's nodes that give what is set on them: the inputs, in the order of the outputs
    "PrimitiveString": ("value",),
    "PrimitiveStringMultiline": ("value",),
    "PrimitiveInt": ("value",),
    "PrimitiveFloat": ("value",),
    "PrimitiveBoolean": ("value",),
    "CustomCombo": ("choice", "index"),
}
SWITCHES = ("ComfySwitchNode", "ComfySoftSwitchNode")
JOINED = "StringConcatenate"


def settled(prompt: Prompt, node_id: str) -> Prompt:
    """A node and what it depends on, each link replaced by what it hands on unchanged, where the prompt says what that is.

    The host's primitives, joined texts and switches do that; of a switch that is set, the other side falls out.
    """
    needed = {node_id, *upstream(prompt, node_id)}
    found = {one: {**prompt[one], "inputs": _settled_inputs(prompt, one)} for one in prompt if one in needed}
    still = {node_id, *upstream(found, node_id)}
    return {one: node for one, node in found.items() if one in still}


def upstream(prompt: Prompt, node_id: str, without: tuple[str, ...] = (), sure: bool = False) -> list[str]:
    """The nodes that a node depends on, in the prompt's order.

    Links that may carry one of the kinds `without`, such as MODEL, are not followed; with `sure`, neither are open ones.
    """
    found, to_do = set[str](), [node_id]
    while to_do:
        given = followed(prompt, to_do.pop(), sure)
        sources = {link[0] for link in given if not (without and kinds(prompt, link) & set(without))}
        to_do += sources - found
        found |= sources
    return [one for one in prompt if one in found]


def followed(prompt: Prompt, node_id: str, sure: bool = False) -> set[Link]:
    """A node's links to nodes of the prompt; with `sure`, without those that it may not have used."""
    left_out = open_inputs(prompt, node_id) if sure else ()
    return {link for name, link in links(prompt, node_id).items() if link[0] in prompt and name not in left_out}


def links(prompt: Prompt, node_id: str) -> dict[str, Link]:
    """Input -> (id, output) of what gives it, where it is linked."""
    return {name: (value[0], int(value[1])) for name, value in prompt[node_id]["inputs"].items() if is_link(value)}


def open_inputs(prompt: Prompt, node_id: str) -> list[str]:
    """Linked inputs of which the prompt does not say whether the node used them.

    They are lazy, or several of any kind where any kind comes out, as a switch of another pack has them.
    """
    given = links(prompt, node_id)
    loose = [name for name in given if declared(prompt, node_id, name)[0] in ANY]
    chooses = len(loose) > 1 and ANY & set(_outputs(prompt, node_id))
    return [name for name in given if declared(prompt, node_id, name)[1].get("lazy") or (chooses and name in loose)]


def declared(prompt: Prompt, node_id: str, name: str) -> tuple[str, Mapping[str, Any]]:
    """Kind and options of an input; nothing where the host does not know the class, or such an input of it."""
    known = host_nodes.NODE_CLASS_MAPPINGS.get(prompt[node_id]["class_type"])
    kind, _, options = (None, None, None) if known is None else get_input_info(known, name)
    if isinstance(kind, list | tuple):  # how the older nodes write a combo
        return "COMBO", {**(options or {}), "options": kind}
    return str(kind or ""), options or {}


def is_setting(prompt: Prompt, node_id: str, name: str) -> bool:
    """Whether a plain value is set by this input, rather than a picture, a model and so on handed over."""
    kind, _ = declared(prompt, node_id, name)
    link = links(prompt, node_id).get(name)
    given = set(kind.split(",")) if kind or link is None else kinds(prompt, link)
    return bool(PLAIN & given)


def title_of(prompt: Prompt, node_id: str) -> str:
    """As the page sent it; the class where it sent none."""
    title = prompt[node_id].get("_meta", {}).get("title")
    return str(title or prompt[node_id]["class_type"])


def gives(prompt: Prompt, node_id: str, kind: str) -> bool:
    """Whether a node has an output that may be of this kind."""
    return any(kind in kinds(prompt, (node_id, output)) for output in range(len(_outputs(prompt, node_id))))


def kinds(prompt: Prompt, link: Link) -> set[str]:
    """What a link may carry; nothing where the host does not know."""
    outputs = (dict(enumerate(_outputs(prompt, one))).get(output, "") for one, output in may_be(prompt, link))
    return {kind for output in outputs for kind in output.split(",")} - ANY - {""}


def may_be(prompt: Prompt, link: Link) -> set[Link]:
    """The link itself and, where its output is of any kind, what goes into its node's inputs of any kind."""
    found, to_do = {link}, [link]
    while to_do:
        one, output = to_do.pop()
        if dict(enumerate(_outputs(prompt, one))).get(output) in ANY:
            loose = (name for name in links(prompt, one) if declared(prompt, one, name)[0] in ANY)
            new = {links(prompt, one)[name] for name in loose} - found
            to_do += new
            found |= new
    return found


def reached(prompt: Prompt, node_id: str, kind: str) -> list[Told]:
    """The inputs at which what a node gives of a kind ends: input, node `of`, nodes it went `through`, whether `perhaps` alone.

    A node that takes the kind and gives it on is gone through where its outputs' names say by which; else it ends there.
    """
    takers: dict[Link, list[tuple[str, str]]] = {}
    for taker in prompt:
        for name, link in links(prompt, taker).items():
            takers.setdefault(link, []).append((taker, name))
    outputs = range(len(_outputs(prompt, node_id)))
    to_do: list[tuple[Link, tuple[str, ...], bool]]
    to_do = [((node_id, n), (), False) for n in outputs if kind in kinds(prompt, (node_id, n))]
    seen, ends = set[Link](), dict[tuple[str, str], Told]()
    while to_do:
        to_do.sort(key=lambda one: (one[2], len(one[1])))  # what is sure first, and by the shortest way
        link, through, perhaps = to_do.pop(0)
        if link in seen:
            continue
        seen.add(link)
        for taker, name in takers.get(link, ()):
            open_here = perhaps or name in open_inputs(prompt, taker)
            further = [on for on in _goes_on(prompt, taker, name, kind) if on in takers]
            to_do += [(on, (*through, taker), open_here) for on in further]
            if not further:
                end = {"input": name, "of": taker, "through": list(through), "perhaps": open_here}
                ends.setdefault((taker, name), end)
    return list(ends.values())


def _goes_on(prompt: Prompt, node_id: str, name: str, kind: str) -> list[Link]:
    """Outputs by which an input of a kind goes on: that of its name, else the only one that has no other input's name."""
    known = host_nodes.NODE_CLASS_MAPPINGS.get(prompt[node_id]["class_type"])
    names = [str(one).casefold() for one in getattr(known, "RETURN_NAMES", None) or _outputs(prompt, node_id)]
    ours = [(node_id, n) for n in range(len(names)) if kind in kinds(prompt, (node_id, n))]
    same = [link for link in ours if names[link[1]] == name.casefold()]
    others = {one.casefold() for one, link in links(prompt, node_id).items() if kind in kinds(prompt, link)}
    rest = [link for link in ours if names[link[1]] not in others]
    return same or (rest if len(rest) == 1 else [])


def _outputs(prompt: Prompt, node_id: str) -> tuple[str, ...]:
    """The kinds of a node's outputs, in their order."""
    known = host_nodes.NODE_CLASS_MAPPINGS.get(prompt[node_id]["class_type"]) if node_id in prompt else None
    return tuple(one if isinstance(one, str) else "COMBO" for one in getattr(known, "RETURN_TYPES", ()))


def _settled_inputs(prompt: Prompt, node_id: str) -> dict[str, Any]:
    return {name: _settled(prompt, value) for name, value in prompt[node_id]["inputs"].items()}


def _settled(prompt: Prompt, value: Any) -> Any:
    """What a link hands on; the link where the prompt does not say."""
    while is_link(value) and value[0] in prompt:
        handed = _handed_on(prompt, value[0], int(value[1]))
        if handed is None:
            break
        value = handed
    return value


def _handed_on(prompt: Prompt, node_id: str, output: int) -> Any:
    """The value or link that an output gives on as it is; None where it gives something else, or it is not known which."""
    kind, inputs = prompt[node_id]["class_type"], prompt[node_id]["inputs"]
    if kind in HANDED_ON:
        return inputs.get(dict(enumerate(HANDED_ON[kind])).get(output))
    if kind in SWITCHES:
        sides = [side for side in ("on_false", "on_true") if side in inputs]
        chosen = _settled(prompt, inputs.get("switch"))
        if len(sides) == 2 and not is_link(chosen):
            return inputs[sides[bool(chosen)]]
        return inputs[sides[0]] if len(sides) == 1 else None
    if kind == JOINED:
        first, second, between = (_settled(prompt, inputs.get(name)) for name in ("string_a", "string_b", "delimiter"))
        whole = all(isinstance(part, str) for part in (first, second, between))
        return between.join((first, second)) if whole else None
    return None
