"""Whatever stands in a config.json: a model that adds up, or one clear error; never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from moeplan.errors import MoeplanError
from moeplan.graph.inventory import build_tensors, param_counts
from moeplan.readers.hf import spec_from_config

CONFIGS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text())
    for path in sorted((Path(__file__).parents[1] / "data" / "hf").glob("*.json"))
}

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 300),
    st.sampled_from([10**7, 10**9, 10**30, -(10**30), float("nan"), float("inf"), 0.5, "", "full_attention"]),
    st.lists(st.one_of(st.integers(-2, 99), st.sampled_from(["full_attention", "?"])), max_size=6),
    st.dictionaries(st.sampled_from(["quant_method", "bits", "weights"]), st.integers(-1, 9), max_size=2),
)


@settings(max_examples=400)
@given(data=st.data())
def test_one_changed_value_is_read_or_refused(data: st.DataObject) -> None:
    model = data.draw(st.sampled_from(sorted(CONFIGS)))
    config = dict(CONFIGS[model])
    key = data.draw(st.sampled_from(sorted(config)))
    config[key] = data.draw(ODD_VALUES)
    if data.draw(st.booleans()):
        config.pop(data.draw(st.sampled_from(sorted(config))))
    error = ""
    try:
        spec = spec_from_config(config, id=model, name=model, where="config.json")
    except MoeplanError as refused:
        error = str(refused)
    if error:
        assert len(error) < 700
        return
    counts = param_counts(spec, build_tensors(spec))
    assert 0 < counts.active <= counts.total
    assert sum(counts.by_role.values()) == counts.total
