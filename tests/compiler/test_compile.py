from __future__ import annotations

import copy
import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import pytest
import torch
from graphs.toys import MASK, SPEC, Toy, llada
from torch import Tensor, nn

from dllmc import kernels
from dllmc.compiler import CompiledModel, compile_model, pipeline
from dllmc.compiler.pipeline import configure
from dllmc.models import LoadedModel, load_model
from dllmc.passes import PassConfig, Stage, ordered
from dllmc.passes.fuse_head_statistics import FuseHeadStatistics
from dllmc.passes.insert_cache import InsertCache
from dllmc.passes.match_rms_norm import MatchRMSNorm
from dllmc.passes.match_rotary import MatchRotary
from dllmc.passes.merge_projections import MergeProjections
from dllmc.passes.narrow_head_rows import NarrowHeadRows
from dllmc.passes.positionalise import Positionalise
from dllmc.runtime.engine import Engine
from dllmc.spec import (
    CaptureError,
    ConfigError,
    PassError,
    UsageError,
    VerificationError,
)

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from dllmc.passes import GraphPass, PassContext


def compiled(model: Any, **options: Any) -> CompiledModel:
    return compile_model(model, engine_of=Engine, backend="eager", **options)


def loaded(**changes: Any) -> LoadedModel:
    """A LLaDA of one layer, unless it is to have more."""
    module, spec = llada(torch.float32, **({"n_layers": 1} | changes))
    return LoadedModel(module, spec, None, "tiny", None, {})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"n_layers": 2, "n_kv_heads": 2},
        pytest.param({"n_layers": 3, "weight_tying": True}, marks=pytest.mark.slow),
        {"include_qkv_bias": True, "embedding_size": 101},
    ],
    ids=str,
)
def test_every_pass_over_a_llada_is_verified(changes: dict[str, Any]) -> None:
    model = compiled(loaded(**changes), verify=True)
    foreign = {"match_complex_rotary", "match_eager_attention", "separate_axes"}
    assert {r.name for r in model.report if r.skipped_because == "disabled"} == {
        "quantise_weights"
    }
    ran = [r for r in model.report if r.skipped_because != "disabled"]
    assert {r.name for r in ran if r.matched == 0} == foreign
    layers = changes.get("n_layers", 1)
    expected = {r.name: r.expected for r in model.report}
    assert expected["match_attention"] == expected["insert_cache"] == layers
    assert expected["match_rms_norm"] == 2 * layers + 1


def test_half_precision_compiles_with_the_same_matches() -> None:
    module, spec = llada(torch.bfloat16, n_layers=1)
    model = compiled(LoadedModel(module, spec, None, "tiny", None, {}), verify=True)
    assert model.package.dtype == "bfloat16"
    assert {r.name: r.matched for r in model.report}["match_rotary"] == 2


def test_verification_leaves_the_model_as_it_was() -> None:
    model = loaded()
    before = {name: t.clone() for name, t in model.module.state_dict().items()}
    compiled(model, verify=True)
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert {t.dtype for t in after.values()} == {torch.float32}


def test_a_package_holds_what_the_runtime_needs() -> None:
    package = compiled(load_model("random:llada-tiny-gqa")).package
    assert (package.name, package.dtype, package.backend) == (
        "random:llada-tiny-gqa",
        "float32",
        "eager",
    )
    assert set(package.graphs) == {"greedy", "none", "sampled"}
    assert len(package.weights_sha256) == 64
    names = [entry["name"] for entry in package.report]
    assert names[0] == "remove_noops"
    assert names.index("match_attention") < names.index("positionalise")


def test_weights_are_hashed_by_content() -> None:
    hashes = [
        compiled(load_model("random:llada-tiny", seed=s)).package.weights_sha256 for s in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_bare_module_with_a_spec() -> None:
    model = compiled(Toy().float(), spec=SPEC, verify=True)
    assert model.package.name == "Toy"
    output = model.engine().generate([1, 2, 3], max_new_tokens=6, config={})
    assert MASK not in output.tokens


def test_a_bare_module_without_a_spec_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Toy does not tell `mask_id` .* give `spec`="):
        compiled(Toy())


def test_some_fields_of_a_spec_may_be_given() -> None:
    assert compiled(Toy().float(), spec={"mask_id": MASK, "max_length": 9}).package.spec == (
        SPEC.model_copy(update={"max_length": 9, "eos_ids": ()})
    )
    model = loaded()
    changed = compiled(model, spec={"eos_ids": (3,)}).package.spec
    assert changed == model.spec.model_copy(update={"eos_ids": (3,)})


def test_an_example_of_a_loaded_model_is_refused() -> None:
    with pytest.raises(UsageError, match="a loaded model knows how it is called"):
        compiled(loaded(), example=torch.zeros(1, 4, dtype=torch.int64))


def test_a_module_in_training_is_compiled_in_evaluation_mode() -> None:
    class Dropping(Toy):
        def extra(self, x: Tensor, tokens: Tensor) -> Tensor:
            return nn.functional.dropout(x, 0.5, self.training)

    module = Dropping().float().train().requires_grad_(True)
    module.head.eval()
    model = compiled(module, spec=SPEC, verify=True)
    assert model.engine().generate([1, 2, 3], max_new_tokens=4, config={}).nfe > 0
    # And then it is as its owner left it.
    assert (module.training, module.head.training, module.out.training) == (True, False, True)
    assert all(parameter.requires_grad for parameter in module.parameters())


class Silent(nn.Module):
    """Attends to nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(13, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return nn.functional.linear(x, self.embed.weight)


def test_a_module_without_attention_is_refused() -> None:
    with pytest.raises(CaptureError, match="Silent has no attention that"):
        compiled(Silent(), spec=SPEC)


def test_mixed_weights_are_refused() -> None:
    module = Toy().float()
    module.head.double()
    module.finish = lambda x, _: module.head(x.double())  # type: ignore[method-assign]
    with pytest.raises(CaptureError, match=r"torch\.float64 \(`head\.weight`\); convert"):
        compiled(module, spec=SPEC)


def test_blocks_that_the_module_does_not_have_are_refused() -> None:
    spec = SPEC.model_copy(update={"attention": "block_causal", "block_length": 4})
    with pytest.raises(
        ConfigError, match=r"sees every position, and the spec says `block_length`"
    ):
        compiled(Toy().float(), spec=spec)


def test_an_unknown_back_end_is_refused() -> None:
    with pytest.raises(UsageError, match="`backend`='inducter' is unknown; did you mean `induct"):
        compile_model(loaded(), engine_of=Engine, backend="inducter")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"match_rms_nrom": {}}, "no pass `match_rms_nrom`; did you mean `match_rms_norm`"),
        (
            {"match_rotary": {"enabeld": False}},
            "`match_rotary`: `enabeld`=False: .* takes enabled",
        ),
        ({"match_rotary": {"enabled": "so so"}}, "`match_rotary`: `enabled`='so so'"),
        ({"remove_noops": {"enabled": False}}, "`remove_noops` cannot be disabled"),
        ({"insert_cache": {"enabled": False}}, "`insert_cache` cannot be disabled"),
        ({"positionalise": PassConfig(enabled=False)}, "`positionalise` cannot be disabled"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compiled(loaded(), passes=options)


@functools.cache
def compiled_once() -> CompiledModel:
    return compiled(loaded())


@pytest.mark.parametrize("kind", [k for k in ordered(*pipeline._MAIN) if k.optional])
def test_an_optional_pass_may_be_disabled(kind: type[GraphPass]) -> None:
    model = loaded()
    plain = compiled_once().engine().generate([1, 2, 3], max_new_tokens=8, config={})
    partial = compiled(model, passes={kind.name: {"enabled": False}})
    skipped = {r.name: r.skipped_because for r in partial.report}
    assert skipped[kind.name] == "disabled"
    assert partial.engine().generate([1, 2, 3], max_new_tokens=8, config={}).tokens == plain.tokens


def test_options_may_be_given_typed() -> None:
    config = PassConfig(enabled=False)
    assert configure({"match_swiglu": config}) == {"match_swiglu": config}


class WrongEps(MatchRMSNorm):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        for node in module.graph.nodes:
            if node.target is kernels.canonical("rms_norm"):
                node.update_arg(2, 1e-3)
        return matched


class SwappedTables(MatchRotary):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        for node in module.graph.nodes:
            if node.target is kernels.canonical("rotary"):
                x, cos, sin = node.args
                node.args = (x, sin, cos)
        return matched


class FirstPositions(Positionalise):
    """Every row turns as the first does."""

    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.index.Tensor:
                table, (positions,) = node.args
                with module.graph.inserting_before(node):
                    first = module.graph.call_function(torch.zeros_like, (positions,))
                node.args = (table, [first])
        return matched


class FirstRows(NarrowHeadRows):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        for node in module.graph.nodes:
            if node.target is kernels.canonical("gather_rows"):
                with module.graph.inserting_before(node):
                    first = module.graph.call_function(torch.zeros_like, (node.args[1],))
                node.update_arg(1, first)
                break
        return matched


class WrongMask(FuseHeadStatistics):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        for node in module.graph.nodes:
            if node.target is kernels.canonical("head_statistics"):
                node.update_arg(3, -1)
        return matched


class WrongOrder(MergeProjections):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        with torch.no_grad():
            for name, buffer in module.named_buffers():
                if name.startswith("merged_"):
                    buffer.copy_(buffer.flip(0))
        return matched


class OneSlotTooFew(InsertCache):
    def rewrite(self, module: GraphModule, context: PassContext) -> int:
        matched = super().rewrite(module, context)
        inputs = {n.target: n for n in module.graph.nodes if n.op == "placeholder"}
        for node in module.graph.nodes:
            if node.target is kernels.canonical("cached_attention"):
                limit = inputs["key_limit"]
                with module.graph.inserting_before(node):
                    less = module.graph.call_function(torch.sub, (limit, 1))
                node.update_arg(6, less)
        return matched


BROKEN = [
    (WrongEps, "changed the logits"),
    (SwappedTables, "changed the logits"),
    (FirstPositions, "changed the logits"),
    (FirstRows, "changed the logits"),
    (WrongMask, "changed candidate tokens"),
    (WrongOrder, "changed"),
    (OneSlotTooFew, "changed"),
]


@pytest.mark.parametrize(("broken", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_pass_is_caught(
    broken: type[GraphPass], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_broken(*stages: Any) -> tuple[type[GraphPass], ...]:
        return tuple(broken if k.name == broken.name else k for k in ordered(*stages))

    monkeypatch.setattr(pipeline, "ordered", with_broken)
    # The mask would win many rows if it could.
    module = copy.deepcopy(loaded().module)
    module.model["transformer"].ff_out.weight[95] *= 9
    with pytest.raises(VerificationError, match=f"`{broken.name}` {message}"):
        compiled(dataclasses.replace(loaded(), module=module), verify=True)


def test_a_model_that_promises_more_than_it_has_is_an_error() -> None:
    class Boastful(Toy):
        def expected_matches(self) -> dict[str, int]:
            return {"match_swiglu": 2}

    with pytest.raises(PassError, match="`match_swiglu` matched 0 sites where the model has 2"):
        compiled(Boastful().float(), spec=SPEC)


def test_callers_see_the_graph_after_every_pass() -> None:
    seen: list[str] = []
    compiled(loaded(), before_and_after=lambda name, _: seen.append(name))
    main = [kind.name for kind in ordered(*pipeline._MAIN)]
    variants = [kind.name for kind in ordered(Stage.VARIANT)]
    lowered = ["lower_operators"] * (1 + len(variants))
    assert seen == ["capture", *main, *variants, *lowered]
