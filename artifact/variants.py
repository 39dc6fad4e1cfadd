"""Variants of a step that some decoding policies ask for, made of the steps of an artifact.

A package holds the plain steps; whatever a policy needs beyond them is derived when it is first
asked for, so that an artifact takes policies that it was not compiled with. Only whole operators
are exchanged, nothing is matched.
"""

from __future__ import annotations

import copy
import operator
from typing import TYPE_CHECKING, Any, cast

import torch
from torch.fx import GraphModule, Node

from dllmc.spec import PlanError, statistics_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from dllmc.spec import StepPlan

_HEADS = {"head_statistics": "statistics", "sampled_head_statistics": "sampled_statistics"}
_EMBEDDING = torch.ops.aten.embedding.default
_NO_HEAD = (
    "the model's logits are no product with a head, so that no joint sampler can stand before it; "
    "use `verify.kind`='none'"
)


def derive(graphs: Mapping[str, GraphModule], plan: StepPlan) -> GraphModule:
    """The step for the statistics, inputs and mask of `plan`.

    Args:
        graphs: Steps by statistics set: `greedy`, `sampled` and `none`.
        plan: Sizes do not count.

    Raises:
        PlanError: The step cannot be had from these graphs.
    """
    base, extras = statistics_parts(plan.statistics)
    if base not in graphs:
        known = ", ".join(graphs)
        raise PlanError(f"the model was compiled for {known} and not for `{base}`")
    plain = graphs[base]
    tree = plan.mask.endswith("+tree")
    if not (extras or tree or plan.saliency or plan.inputs != "tokens"):
        return plain
    module = GraphModule(plain, copy.deepcopy(plain.graph))
    if extras:
        _extend_statistics(module, extras)
    if plan.inputs != "tokens":
        _mix_embeddings(module)
    if tree:
        _mask_keys(module)
    if plan.saliency:
        _return_saliency(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def _call(name: str, implementation: str = "torch") -> Any:
    return getattr(getattr(torch.ops.dllmc, name), implementation)


def _name_of(node: Node) -> tuple[str, str]:
    """Operator and implementation of a node of ours; empty of others."""
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "dllmc":
        return "", ""
    return node.target._opname, node.target._overloadname


def _extend_statistics(module: GraphModule, extras: Mapping[str, int]) -> None:
    graph = module.graph
    output = graph.output_node()
    results = list(cast("tuple[Node, ...]", output.args[0]))
    fused = cast("Node", results[0].args[0])
    name, implementation = _name_of(fused)
    hidden = fused.args[0] if name in _HEADS else None
    with graph.inserting_before(fused):
        logits = cast("Node", fused.args[0])
        rest = fused.args[1:]
        if name in _HEADS:
            logits = graph.call_function(_call("linear", implementation), fused.args[:3])
            rest, name = fused.args[3:], _HEADS[name]
        new = graph.call_function(_call(name), (logits, *rest))
    fused.replace_all_uses_with(new)
    graph.erase_node(fused)
    mask_id = rest[0]
    with graph.inserting_before(output):
        for kind, count in sorted(extras.items()):
            if kind == "entropy":
                results.append(graph.call_function(_call("entropy"), (logits,)))
            elif kind == "second":
                given = (logits, results[0], mask_id)
                results.append(graph.call_function(_call("second"), given))
            elif kind == "hidden":
                if hidden is None:
                    raise PlanError(_NO_HEAD)
                results.append(cast("Node", hidden))
            elif kind == "logits":
                results.append(graph.call_function(_call("all_logits"), (logits,)))
            elif kind == "gather":
                ids = _placeholder(module, "gather_ids")
                results.append(graph.call_function(_call("gather_logits"), (logits, ids)))
            else:
                found = graph.call_function(_call("top"), (logits, mask_id, count))
                results += [graph.call_function(operator.getitem, (found, i)) for i in (0, 1)]
    output.args = (tuple(results),)


def _mix_embeddings(module: GraphModule) -> None:
    tokens = next(n for n in module.graph.nodes if n.op == "placeholder" and n.target == "tokens")
    sites = [n for n in tokens.users if n.target is _EMBEDDING and n.args[1] is tokens]
    if not sites:
        raise PlanError(
            "the model does not look its tokens up in an embedding, so that they cannot be mixed; "
            "use `belief.kind`='mask'"
        )
    given = _placeholder(module, "mixture_ids"), _placeholder(module, "mixture_weights")
    for site in sites:
        with module.graph.inserting_before(site):
            new = module.graph.call_function(_call("mixture"), (site.args[0], *given))
        site.replace_all_uses_with(new)
        module.graph.erase_node(site)


def _attention_sites(module: GraphModule) -> list[Node]:
    return [node for node in module.graph.nodes if _name_of(node)[0] == "cached_attention"]


def _of_head_rows(module: GraphModule) -> set[Node]:
    """Everything that is computed for the head rows alone."""
    found: set[Node] = set()
    for node in module.graph.nodes:
        named = node.op == "placeholder" and node.target == "head_rows"
        if named or found.intersection(node.all_input_nodes):
            found.add(node)
    return found


def _mask_keys(module: GraphModule) -> None:
    mask = _placeholder(module, "key_mask")
    head_rows, narrow = _head_rows(module), _of_head_rows(module)
    for site in _attention_sites(module):
        arguments = [*site.args, None, None, None, None][:12]
        if arguments[11] is not None:
            raise PlanError(
                "the model's own attention masks leave no place for drafts in one row; use "
                "`verify.form`='batch'"
            )
        with module.graph.inserting_before(site):
            rows = mask
            if site.args[0] in narrow:
                rows = module.graph.call_function(_call("gather_rows"), (mask, head_rows, 1))
            arguments[11] = module.graph.call_function(torch.ops.aten.unsqueeze.default, (rows, 1))
        site.args = tuple(arguments)


def _return_saliency(module: GraphModule) -> None:
    output = module.graph.output_node()
    weights = _placeholder(module, "head_weights")
    head_rows, narrow = _head_rows(module), _of_head_rows(module)
    found = []
    for site in _attention_sites(module):
        q, keys = cast("Node", site.args[0]), site.args[3]
        with module.graph.inserting_before(site.next):
            if q not in narrow:
                q = module.graph.call_function(_call("gather_rows"), (q, head_rows, 2))
            found.append(module.graph.call_function(_call("saliency"), (q, keys, weights)))
    output.args = ((*cast("tuple[Node, ...]", output.args[0]), *found),)


def _head_rows(module: GraphModule) -> Node:
    given: list[Node] = [node for node in module.graph.nodes if node.op == "placeholder"]
    return next(node for node in given if node.target == "head_rows")


def _placeholder(module: GraphModule, name: str) -> Node:
    last = [node for node in module.graph.nodes if node.op == "placeholder"][-1]
    with module.graph.inserting_after(last):
        return module.graph.placeholder(name)
