from __future__ import annotations

import pytest
import torch
from graphs.passing import operators, ready_for
from graphs.toys import llada

from dllmc.compiler.pipeline import run_passes
from dllmc.compiler.verify import Probe
from dllmc.passes import pass_types
from dllmc.passes._graph import calls, get_tensor
from dllmc.passes.quantise_weights import QuantiseWeights, QuantiseWeightsConfig
from dllmc.spec import PassError, VerificationError


def of_bits(bits: int, group: int = 32) -> QuantiseWeights:
    config = {"enabled": True, "bits": bits, "group": group}
    return QuantiseWeights(QuantiseWeightsConfig.model_validate(config))


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("changes", [{}, {"n_kv_heads": 2}, {"include_qkv_bias": True}], ids=str)
def test_every_layers_weights_are_rounded_and_the_heads_are_not(
    bits: int, changes: dict[str, object]
) -> None:
    module, spec = llada(n_layers=2, **changes)
    graph, context = ready_for("quantise_weights", module, spec)
    layers = operators(graph)["aten.linear.default"]
    result = of_bits(bits).run(graph, context)
    assert result.matched == layers
    found = operators(graph)
    assert found[f"dllmc.int{bits}_linear.default"] == layers
    assert "aten.linear.default" not in found
    assert found["dllmc.head_statistics.default"] == 1
    for node in calls(graph, getattr(torch.ops.dllmc, f"int{bits}_linear").default):
        weight = get_tensor(graph, node.args[1])  # type: ignore[arg-type]
        assert weight.dtype == (torch.int8 if bits == 8 else torch.uint8)


@pytest.mark.parametrize("bits", [8, 4])
def test_the_graph_computes_what_the_one_before_does_with_rounded_weights(bits: int) -> None:
    module, spec = llada(n_layers=2)
    graph, context = ready_for("quantise_weights", module, spec)
    probe, rounding = Probe(spec), of_bits(bits)
    untouched = probe.observe(graph)
    rounding.lose(graph)
    lost = probe.observe(graph)
    again, _ = ready_for("quantise_weights", module, spec)
    rounding.run(again, context)
    probe.compare("quantise_weights", lost, probe.observe(again))
    with pytest.raises(VerificationError):
        probe.compare("quantise_weights", untouched, lost)


def test_nobody_has_it_who_does_not_ask() -> None:
    assert [name for name, kind in pass_types().items() if kind.lossy] == ["quantise_weights"]
    assert not pass_types()["quantise_weights"]().config.enabled


def test_what_was_rounded_is_not_kept_whole() -> None:
    module, spec = llada()
    graph, context = ready_for("quantise_weights", module, spec)
    of_bits(8).run(graph, context)
    wide = {name for name, t in graph.named_parameters() if t.dim() == 2}
    wide |= {name for name, t in graph.named_buffers() if t.dim() == 2 and t.is_floating_point()}
    assert not {name for name in wide if "proj" in name or "merged" in name or "attn_out" in name}


def test_inputs_divide_into_the_largest_groups_that_fit() -> None:
    module, spec = llada(mlp_hidden_size=48)
    graph, context = ready_for("quantise_weights", module, spec)
    of_bits(4).run(graph, context)
    found = {
        (2 * codes.shape[1], 2 * codes.shape[1] // scales.shape[1])
        for node in calls(graph, torch.ops.dllmc.int4_linear.default)
        for codes, scales in [[get_tensor(graph, n) for n in node.args[1:3]]]  # type: ignore[arg-type]
    }
    assert found == {(32, 32), (48, 16)}


def test_inputs_that_divide_into_no_groups_are_refused() -> None:
    module, spec = llada(mlp_hidden_size=36)
    graph, context = ready_for("quantise_weights", module, spec)
    with pytest.raises(PassError, match=r"has 36 inputs, .* groups of 8 or more; round to 8 bits"):
        of_bits(4).run(graph, context)


def test_verification_notices_a_rewriting_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    module, spec = llada()
    graph, context = ready_for("remove_noops", module, spec)
    exact = QuantiseWeights._rounded

    def doubled(self: QuantiseWeights, weight: torch.Tensor, node: object) -> object:
        codes, scales = exact(self, weight, node)  # type: ignore[arg-type]
        return codes, (scales * 2 if calls(graph, torch.ops.dllmc.int8_linear.default) else scales)

    monkeypatch.setattr(QuantiseWeights, "_rounded", doubled)
    with pytest.raises(VerificationError, match="quantise_weights"):
        run_passes(graph, context, {"quantise_weights": of_bits(8).config}, verify=True)
