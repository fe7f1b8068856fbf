"""choices: closed sets of names."""

from __future__ import annotations

import pytest

from pfv_mepa.pfv_core.ad.depth import DepthFill
from pfv_mepa.pfv_core.adapter.model import AdapterKind, CompressMethod
from pfv_mepa.pfv_core.attention.control import Gate
from pfv_mepa.pfv_core.attention.fusion import Combine
from pfv_mepa.pfv_core.choices import parse_choice
from pfv_mepa.pfv_core.reference.fit import Fit
from pfv_mepa.pfv_core.reference.vit import HideMode

SETS = {
    Fit: ["crop", "pad", "stretch"],
    HideMode: ["drop", "zero"],
    CompressMethod: ["adapter", "eq3_normalized", "eq3_literal", "cluster"],
    Gate: ["output", "query"],
    Combine: ["add", "blend"],
    DepthFill: ["surroundings", "far"],
    AdapterKind: ["linear", "resampler", "eq3", "tokens"],
}


@pytest.mark.parametrize("choices", SETS, ids=lambda choices: choices.__name__)
def test_names_and_members_are_parsed(choices):
    assert [parse_choice(choices, name, "it") for name in SETS[choices]] == list(choices)
    assert all(parse_choice(choices, member, "it") is member for member in choices)


@pytest.mark.parametrize("value", ["Crop", "", None, 3])
def test_anything_else_is_refused_with_the_name_and_the_choices(value):
    with pytest.raises(ValueError, match=rf"fit is {value!r}, expected one of \['crop', 'pad', 'stretch'\]"):
        parse_choice(Fit, value, "fit")
