from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from dllmc.policies._base import knob
from dllmc.policies._exclusions import Exclusion, exclusion, exclusions, pairs
from dllmc.policies._faces import faces, phrase, usual
from dllmc.policies.axes import Belief, Constrain, Verify
from dllmc.policies.belief.mask import MaskEmbedding
from dllmc.policies.commit.quota import Quota
from dllmc.policies.commit.threshold import Threshold
from dllmc.policies.config import QUALITY_REFERENCE
from dllmc.policies.matrix import document, main
from dllmc.policies.score.random import Random
from dllmc.spec import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pytest

    from dllmc.policies._base import Policy

PAGE = Path(__file__).parents[2] / "docs" / "composition.md"


class Twice(Verify):
    kind: Literal["twice"] = "twice"
    times: int | None = knob(None, gt=0, low=1, high=4, lossy=True)
    share: float = knob(0.5, low=0.0, high=1.0, lossy=True)
    how: Literal["once", "again"] = "once"

    @property
    def properties(self) -> frozenset[str]:
        return super().properties | ({"late"} if self.how == "again" else set())

    @property
    def exclusions(self) -> Mapping[str, str]:
        return {"plans_block": "it counts twice"} if self.times else {}


class Whimsical(Belief):
    excludes: ClassVar[Mapping[str, str]] = {"late": "it does not wait"}
    kind: Literal["whimsical"] = "whimsical"


class Spelled(Constrain):
    kind: Literal["spelled"] = "spelled"
    letters: str


def test_the_page_is_what_the_policies_declare() -> None:
    wanted = "python -m dllmc.policies.matrix docs/composition.md"
    assert PAGE.read_text(encoding="utf-8") == document(), f"write it again: `{wanted}`"


def test_a_page_is_printed_or_written(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["matrix"])
    main()
    assert capsys.readouterr().out == document()
    monkeypatch.setattr("sys.argv", ["matrix", str(tmp_path / "page.md")])
    main()
    assert (tmp_path / "page.md").read_text(encoding="utf-8") == document()


def test_a_kind_has_a_face_for_what_its_fields_change() -> None:
    default, counting, late = faces(Twice)
    assert (default.policy, default.values) == (Twice(), {})
    assert (counting.policy, counting.values) == (Twice(times=1), {"times": (1, 4)})
    assert (late.policy, late.values) == (Twice(how="again"), {"how": ("again",)})


def test_a_face_is_told_by_the_fields_that_it_takes() -> None:
    _, counting, late = faces(Twice)
    assert phrase(Twice, [counting]) == "`verify.times` is given"
    assert phrase(Twice, [late]) == "`verify.how` is 'again'"
    both = "`verify.times` is given or `verify.how` is 'again'"
    assert phrase(Twice, [counting, late]) == both


def test_fields_without_a_default_are_filled_in() -> None:
    assert usual(Spelled).kind == "spelled"
    assert len(faces(Spelled)) == 1


def test_what_depends_on_both_names_both() -> None:
    assert exclusion(Quota, Twice) == Exclusion(
        "verify.twice",
        "commit.quota",
        "it counts twice",
        "if `commit.steps` is given and if `verify.times` is given",
    )
    assert exclusion(Whimsical, Twice) == Exclusion(
        "belief.whimsical", "verify.twice", "it does not wait", "if `verify.how` is 'again'"
    )


def test_what_always_holds_has_no_condition() -> None:
    found = exclusion(Random, Threshold)
    assert found is not None
    assert (found.by, found.of, found.condition) == ("commit.threshold", "score.random", "")
    assert exclusion(MaskEmbedding, Threshold) is None


def test_configurations_refuse_just_what_the_page_says() -> None:
    refused = {frozenset((each.by, each.of)) for each in exclusions() if told(each)}
    found = {
        frozenset(f"{kind.axis}.{usual(kind).kind}" for kind in both)
        for both in pairs()
        if not stands([usual(kind) for kind in both])
    }
    assert found == refused
    assert len(found) > 20


def stands(policies: list[Policy]) -> bool:
    """Whether any configuration has them all: with one commit and score or another beside them."""
    return any(
        composes(
            {"commit": {"kind": commit}, "score": {"kind": score}}
            | {policy.axis: policy for policy in policies}
        )
        for commit in ("quota", "leftmost")
        for score in ("probability", "order")
    )


def composes(axes: Mapping[str, Any]) -> bool:
    try:
        QUALITY_REFERENCE.replace(**axes)
    except ConfigError as error:
        return "do not go together" not in str(error)
    return True


def told(each: Exclusion) -> bool:
    """Whether it holds for the defaults."""
    return "if " not in each.condition
