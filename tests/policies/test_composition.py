from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import pytest
from rows.given import made

from dllmc.policies._composition import conflict
from dllmc.policies._registry import kinds
from dllmc.policies.axes import AXES, Belief, Verify
from dllmc.policies.belief.mask import MaskEmbedding
from dllmc.policies.cache.dual import DualCache
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import DecodingConfig
from dllmc.policies.revise.none import NoRevision
from dllmc.policies.verify.none import NoVerify
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

ALL_KINDS = [(axis, kind) for axis in AXES for kind in kinds(axis)]
REASON = "what it drafts is committed for good"


class Loose(Belief):
    traits: ClassVar[frozenset[str]] = frozenset({"loose", "slow"})
    kind: Literal["loose"] = "loose"
    tight: bool = False

    @property
    def properties(self) -> frozenset[str]:
        return super().properties - ({"loose"} if self.tight else set())


class Strict(Verify):
    excludes: ClassVar[Mapping[str, str]] = {"loose": REASON, "commit.quota": "it counts tokens"}
    kind: Literal["strict"] = "strict"
    lenient: bool = False

    @property
    def exclusions(self) -> Mapping[str, str]:
        return {} if self.lenient else self.excludes


def test_a_policy_excludes_others_by_a_trait_from_either_side() -> None:
    assert conflict(Strict(), Loose()) == REASON
    assert conflict(Loose(), Strict()) == REASON


def test_a_policy_excludes_others_by_their_name_from_either_side() -> None:
    assert conflict(Strict(), Quota()) == "it counts tokens"
    assert conflict(Quota(), Strict()) == "it counts tokens"


def test_what_nobody_excludes_goes_together() -> None:
    assert conflict(Strict(), Threshold()) is None
    assert conflict(Loose(), Quota()) is None


def test_traits_and_exclusions_are_those_of_the_configuration() -> None:
    assert conflict(Strict(), Loose(tight=True)) is None
    assert conflict(Loose(), Strict(lenient=True)) is None


def test_a_policy_has_its_traits_and_its_name() -> None:
    assert Loose().properties == {"loose", "slow", "belief.loose"}
    assert Quota().properties >= {"commit.quota"}


@pytest.mark.parametrize(("axis", "other"), [("belief", "verify"), ("verify", "belief")])
def test_a_configuration_of_such_a_pair_names_both_kinds_and_the_reason(
    axis: str, other: str
) -> None:
    fields = {"belief": Loose(), "verify": Strict()}
    with pytest.raises(ConfigError) as caught:
        DecodingConfig(**{axis: fields[axis], other: fields[other]})  # type: ignore[arg-type]
    assert str(caught.value) == (
        f"`belief.kind`='loose' and `verify.kind`='strict' do not go together: {REASON}"
    )
    DecodingConfig(belief=fields["belief"])
    DecodingConfig(verify=fields["verify"])
    with pytest.raises(ConfigError, match="do not go together"):
        DecodingConfig(belief=fields["belief"]).replace(verify=fields["verify"])


@pytest.mark.parametrize("by_trait", [False, True])
def test_it_is_the_same_whichever_of_them_excludes(
    monkeypatch: pytest.MonkeyPatch, by_trait: bool
) -> None:
    monkeypatch.setattr(Threshold, "traits", frozenset({"odd"}))
    monkeypatch.setattr(DualCache, "traits", frozenset({"even"}))
    said = []
    for kind, name in ((Threshold, "even"), (DualCache, "odd")):
        against = name if by_trait else {"even": "cache.dual", "odd": "commit.threshold"}[name]
        with monkeypatch.context() as patch:
            patch.setattr(kind, "excludes", {against: "they differ"})
            with pytest.raises(ConfigError) as caught:
                DecodingConfig(commit=Threshold(), cache=DualCache())
        said.append(str(caught.value))
    assert (
        said
        == ["`commit.kind`='threshold' and `cache.kind`='dual' do not go together: they differ"]
        * 2
    )
    DecodingConfig(commit=Threshold(), cache=DualCache())


def test_a_policy_may_exclude_a_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Quota, "excludes", {"temperature": "it takes the best"})
    DecodingConfig(commit=Quota())
    DecodingConfig(commit=Threshold(), temperature=0.5)
    with pytest.raises(ConfigError) as caught:
        DecodingConfig(commit=Quota(), temperature=0.5)
    assert str(caught.value) == (
        "`commit.kind`='quota' and `temperature`=0.5 do not go together: it takes the best"
    )


@pytest.mark.parametrize(("axis", "kind"), ALL_KINDS)
def test_what_a_kind_excludes_exists_and_has_a_reason(axis: str, kind: str) -> None:
    policy = made(kinds(axis)[kind])
    for name, reason in (policy.excludes | policy.exclusions).items():
        assert reason
        against, _, other = name.partition(".")
        if other:
            assert other in kinds(against)
            assert against != axis


def test_policies_that_do_nothing_go_with_everything() -> None:
    for axis, kind in ALL_KINDS:
        policy = made(kinds(axis)[kind])
        for idle in (MaskEmbedding(), NoVerify(), NoRevision()):
            assert conflict(policy, idle) is None
