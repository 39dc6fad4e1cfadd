from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from published.layout import write
from safetensors.torch import load_file, save_file

from dllmc.models import load_model, loading
from dllmc.spec import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from dllmc.models import LoadedModel

WEIGHTS = "adapter_model.safetensors"
# The layers that D2F adapts.
TARGETS = {
    "llada-tiny-gqa": ["q_proj", "v_proj", "k_proj", "attn_out"],
    "dream-tiny": ["q_proj", "v_proj", "k_proj", "o_proj"],
}
# What PEFT writes beside the keys that are read.
WRITTEN: dict[str, Any] = {
    "alpha_pattern": {},
    "auto_mapping": {"base_model_class": "DreamModel", "parent_library": "modeling_dream"},
    "bias": "none",
    "corda_config": None,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 6,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "task_type": None,
    "trainable_token_indices": None,
    "use_dora": False,
    "use_rslora": False,
}


def make_base(folder: Path, shape: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
    model = load_model(f"random:{shape}", dtype=dtype)
    write(folder, model.config, model.module.state_dict())
    return load_model(folder)


def matrices(model: LoadedModel, ends: list[str], rank: int = 4) -> dict[str, Tensor]:
    found = {}
    for name, parameter in model.module.named_parameters():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and any(layer.endswith(f".{end}") for end in ends):
            rows, columns = parameter.shape
            found[f"base_model.model.{layer}.lora_A.weight"] = torch.randn(rank, columns)
            found[f"base_model.model.{layer}.lora_B.weight"] = torch.randn(rows, rank)
    return found


def make_adapter(
    folder: Path, tensors: dict[str, Tensor], base: str, targets: Any, **changes: Any
) -> Path:
    folder.mkdir(exist_ok=True)
    keys = {**WRITTEN, "base_model_name_or_path": base, "target_modules": targets, **changes}
    (folder / "adapter_config.json").write_text(json.dumps(keys))
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def adapted(tmp_path: Path, shape: str = "dream-tiny", **changes: Any) -> Path:
    """An adapter named `adapter` beside its base, `base`."""
    base = make_base(tmp_path / "base", shape)
    tensors = matrices(base, TARGETS[shape])
    keys = {"base": "../base", "targets": TARGETS[shape]} | changes
    return make_adapter(tmp_path / "adapter", tensors, **keys)


def refused(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("shape", sorted(TARGETS))
@pytest.mark.parametrize("rslora", [False, True])
def test_every_adapted_weight_has_its_product_added_and_no_other_changes(
    tmp_path: Path, shape: str, rslora: bool
) -> None:
    folder = adapted(tmp_path, shape, use_rslora=rslora)
    before = load_model(tmp_path / "base").module.state_dict()
    after = load_model(folder).module.state_dict()
    tensors = load_file(folder / WEIGHTS)
    scale = 6 / math.sqrt(4) if rslora else 6 / 4
    changed = 0
    assert before.keys() == after.keys()
    for name, weight in before.items():
        prefix = f"base_model.model.{name.removesuffix('.weight')}"
        expected = weight.double()
        if f"{prefix}.lora_A.weight" in tensors:
            a, b = (tensors[f"{prefix}.lora_{which}.weight"].double() for which in "AB")
            expected = expected + scale * torch.einsum("or,ri->oi", b, a)
            changed += 1
        torch.testing.assert_close(after[name].double(), expected, rtol=1e-6, atol=1e-5)
    assert changed == 8


def test_the_merged_model_computes_what_base_and_branch_do_together(tmp_path: Path) -> None:
    folder = adapted(tmp_path, "llada-tiny-gqa")
    tensors = load_file(folder / WEIGHTS)
    base = load_model(tmp_path / "base", dtype=torch.float64)
    for name, layer in base.module.named_modules():
        prefix = f"base_model.model.{name}"
        if f"{prefix}.lora_A.weight" in tensors:
            a, b = (tensors[f"{prefix}.lora_{which}.weight"].double() for which in "AB")
            layer.register_forward_hook(
                lambda _, args, out, a=a, b=b: out + 1.5 * ((args[0] @ a.T) @ b.T)
            )
    merged = load_model(folder, dtype=torch.float64)
    tokens = torch.randint(0, 96, (2, 17))
    torch.testing.assert_close(merged.module(tokens), base.module(tokens), rtol=0, atol=1e-10)


def test_a_half_precision_base_is_rounded_once(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "dream-tiny", torch.bfloat16)
    tensors = {name: 0.1 * t for name, t in matrices(base, ["q_proj"]).items()}
    folder = make_adapter(tmp_path / "adapter", tensors, "../base", ["q_proj"])
    merged = load_model(folder).module.state_dict()
    wide = load_model(folder, dtype=torch.float32).module.state_dict()
    assert all(tensor.dtype == torch.bfloat16 for tensor in merged.values())
    assert all(torch.equal(merged[name], tensor.bfloat16()) for name, tensor in wide.items())


def test_what_is_not_the_weights_is_the_base_s(tmp_path: Path) -> None:
    base, merged = load_model_pair(tmp_path)
    assert merged.spec == base.spec
    assert merged.spec.logit_shift == 1
    assert merged.config == base.config
    assert merged.name == "adapter"
    assert merged.source == tmp_path / "adapter"
    assert not any(parameter.requires_grad for parameter in merged.module.parameters())


def load_model_pair(tmp_path: Path, **changes: Any) -> tuple[LoadedModel, LoadedModel]:
    folder = adapted(tmp_path, **changes)
    return load_model(tmp_path / "base"), load_model(folder)


@pytest.mark.parametrize(
    "targets", [["self_attn.q_proj", "model.layers.0.mlp.up_proj"], r".*\.(0\.mlp\.up|q)_proj"]
)
def test_layers_are_named_by_their_ends_or_by_an_expression(tmp_path: Path, targets: Any) -> None:
    base = make_base(tmp_path / "base", "dream-tiny")
    tensors = matrices(base, ["q_proj", "0.mlp.up_proj"])
    folder = make_adapter(tmp_path / "adapter", tensors, "../base", targets)
    after, before = load_model(folder).module.state_dict(), base.module.state_dict()
    assert sorted(name for name in after if not torch.equal(after[name], before[name])) == [
        "model.layers.0.mlp.up_proj.weight",
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.1.self_attn.q_proj.weight",
    ]


@pytest.mark.parametrize("length", [None, 16])
def test_an_adapter_may_say_that_it_is_block_causal(tmp_path: Path, length: int | None) -> None:
    changes = {"attention": "block_causal"} | ({"block_length": length} if length else {})
    base, merged = load_model_pair(tmp_path, **changes)
    assert merged.spec.attention == "block_causal"
    assert merged.spec.block_length == (length or 32)
    assert merged.spec.blocks_from == "response"
    same = {"mask_id", "vocab_size", "max_length", "eos_ids", "logit_shift", "family"}
    assert merged.spec.model_dump(include=same) == base.spec.model_dump(include=same)


@pytest.mark.parametrize(
    "path",
    [
        "D2F_Dream_Base_7B_Lora",
        "models--SJTU-Deng-Lab--D2F_Dream_Base_7B_Lora/snapshots/7c8e0f",
    ],
)
def test_d2f_is_known_by_its_name(tmp_path: Path, path: str) -> None:
    folder = adapted(tmp_path, base=str(tmp_path / "base"))
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    folder = folder.rename(tmp_path / path)
    assert load_model(folder).spec.block_length == 32
    keys = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(keys | {"block_length": 16}))
    assert load_model(folder).spec.block_length == 16
    (folder / "adapter_config.json").write_text(json.dumps(keys | {"attention": "full"}))
    assert load_model(folder).spec.attention == "full"


def test_the_base_is_found_from_the_adapter_from_here_and_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = adapted(tmp_path)
    merged = load_model(folder).module.state_dict()
    for base, place in (("base", tmp_path), (str(tmp_path / "base"), folder)):
        monkeypatch.chdir(place)
        tensors = load_file(folder / WEIGHTS)
        other = make_adapter(tmp_path / "other", tensors, base, TARGETS["dream-tiny"])
        again = load_model(other).module.state_dict()
        assert all(torch.equal(again[name], tensor) for name, tensor in merged.items())


def test_a_base_that_is_not_here_is_named_with_what_to_do(tmp_path: Path) -> None:
    message = refused(adapted(tmp_path, base="../LLaDA-8B-Instruct"))
    said = "adapter_config.json: `base_model_name_or_path` is `../LLaDA-8B-Instruct`, but there is"
    assert said in message
    assert "; download it and set the key to its folder" in message


def test_a_base_may_be_a_model_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = adapted(tmp_path, base="GSAI-ML/LLaDA-8B-Instruct")
    hub = {"GSAI-ML/LLaDA-8B-Instruct": tmp_path / "base"}
    monkeypatch.setattr(loading, "download", hub.__getitem__)
    assert load_model(folder).spec == load_model(tmp_path / "base").spec


def test_an_adapter_of_an_adapter_is_refused(tmp_path: Path) -> None:
    assert "`base_model_name_or_path` is `../adapter`, an adapter itself" in refused(
        adapted(tmp_path, base="../adapter")
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "`use_dora` is True, but only False is supported"),
        ({"bias": "lora_only"}, "`bias` is 'lora_only', but only 'none' is supported"),
        ({"fan_in_fan_out": True}, "`fan_in_fan_out` is True"),
        ({"modules_to_save": ["lm_head"]}, "`modules_to_save` is ['lm_head']"),
        ({"rank_pattern": {"q_proj": 8}}, "`rank_pattern` is {'q_proj': 8}"),
        ({"alpha_pattern": {"q_proj": 8}}, "`alpha_pattern` is {'q_proj': 8}"),
        ({"init_lora_weights": "pissa"}, "`init_lora_weights` is 'pissa'"),
        ({"layers_to_transform": [0]}, "`layers_to_transform` is [0]"),
        ({"peft_type": "LOHA"}, "`peft_type` is 'LOHA', but only 'LORA' is supported"),
        ({"r": 0}, "`r` is 0; input should be greater than 0"),
        ({"attention": "causal"}, "`attention` is 'causal'; input should be 'full' or"),
        ({"block_length": 8}, "`block_length`=8 goes with `attention`='block_causal'"),
        ({"targets": "(q"}, "`target_modules`='(q' is no regular expression"),
    ],
    ids=str,
)
def test_what_cannot_be_merged_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = adapted(tmp_path, **changes)
    assert f"{folder / 'adapter_config.json'}: {message}" in refused(folder)


def test_a_block_causal_adapter_needs_a_base_that_is_not(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "sdar-tiny")
    folder = make_adapter(tmp_path / "adapter", matrices(base, ["q_proj"]), "../base", ["q_proj"])
    assert load_model(folder).spec == base.spec
    make_adapter(
        folder, matrices(base, ["q_proj"]), "../base", ["q_proj"], attention="block_causal"
    )
    assert "the base's attention is block_causal already" in refused(folder)


def test_matrices_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    folder = adapted(tmp_path)
    whole = load_file(folder / WEIGHTS)
    layer = "model.layers.1.self_attn.k_proj"
    name = f"base_model.model.{layer}.lora_A.weight"
    less = {key: tensor for key, tensor in whole.items() if layer not in key}
    half = {key: tensor for key, tensor in whole.items() if key != name}
    strange = "base_model.model.lm_head.lora_embedding_A"
    wrong = {
        f"`{layer}` has no matrices": less,
        f"matrix A of `{layer}` is missing": half,
        f"matrix A of `{layer}` is [3, 32], but `r` and the base ask for [4, 32]": whole
        | {name: torch.ones(3, 32)},
        "adapts `model.layers.2.self_attn.k_proj`, which is no layer of the base": whole
        | {name.replace("1", "2"): torch.ones(4, 32)},
        f"tensor `{strange}`": whole | {strange: torch.ones(4, 32)},
        f"tensor `{name}`": whole | {name: torch.ones(4, 32, dtype=torch.int8)},
    }
    for message, tensors in wrong.items():
        save_file(tensors, folder / WEIGHTS)
        assert message in refused(folder)


def test_a_layer_that_is_not_linear_and_a_name_for_no_layer_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "dream-tiny")
    tensors = matrices(base, ["embed_tokens"])
    folder = make_adapter(tmp_path / "adapter", tensors, "../base", ["embed_tokens"])
    assert "`model.embed_tokens`, but only linear layers can be adapted" in refused(folder)
    make_adapter(folder, {}, "../base", ["query"])
    assert "no layer of the base is named" in refused(folder)


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    folder = adapted(tmp_path)
    (folder / WEIGHTS).write_bytes(b"no tensors")
    assert f"{folder / WEIGHTS} cannot be read" in refused(folder)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    assert "weights in other formats must be converted to safetensors" in refused(folder)
    (folder / "adapter_config.json").write_text("{")
    assert f"{folder / 'adapter_config.json'} is not JSON" in refused(folder)


def test_a_checkpoint_with_weights_of_its_own_is_no_adapter(tmp_path: Path) -> None:
    folder = adapted(tmp_path)
    plain = load_model(tmp_path / "base").module.state_dict()
    (folder / "adapter_config.json").rename(tmp_path / "base" / "adapter_config.json")
    again = load_model(tmp_path / "base").module.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in plain.items())
