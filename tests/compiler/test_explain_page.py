"""The page of an explanation: whole in itself, readable, and harmless."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections import Counter
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import torch.nn.functional as F
from graphs.toys import SPEC, Toy
from torch import Tensor, nn

from dllmc.compiler._drawing import draw
from dllmc.compiler._listing import Row, Section
from dllmc.compiler.explain import Explanation, Source, explain
from dllmc.models import load_model
from dllmc.spec import StepPlan

PLAN = StepPlan(batch=2, rows=6, head_rows=3, slots=10)
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def explained() -> Explanation:
    return explain(load_model("random:llada-tiny-gqa"), [PLAN])


class Reader(HTMLParser):
    """Counts tags and attributes, and sees that every tag is closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_needs_no_other_file_and_no_network(explained: Explanation) -> None:
    page = explained.html()
    read = Reader(page)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(read.tags)
    assert not {"src", "href", "srcset", "action"} & read.attributes
    assert not [name for name in read.attributes if name.startswith("on")]
    assert "default-src 'none'" in page
    assert "@import" not in page
    assert set(re.findall(r"url\((.*?)\)", page)) == {"#tip"}
    assert not re.search(r"https?:", page)


def test_the_page_shows_passes_graphs_lines_and_floors(explained: Explanation) -> None:
    page = explained.html((1e9, 1e9))
    read = " ".join(Reader(page).texts)
    assert all(result.name in read for result in explained.passes)
    assert all(f"{operator}" in read for operator in explained.generic)
    # A norm: the call, what it stands for, and the line that it came from.
    norm = next(
        row for s in explained.canonical for row in s.rows if row.name == "rms_norm_default"
    )
    assert f"{norm.name} " in read
    assert all(f"{name} = aten." in read for name in norm.captured)
    assert all(
        f"llada.py:{source.line}" in read and source.code in read for source in norm.sources
    )
    # Two layers, one of them shown, in both graphs.
    assert page.count("<summary>model.transformer.blocks.0, and 1 like it") == 1
    assert "model.transformer.blocks.1_" not in page
    milliseconds = 1e3 * explained.floors[0].seconds(bandwidth=1e9, rate=1e9)
    assert f"{milliseconds:.2f}" in read
    assert "floor ms" not in explained.html()


def test_nothing_of_a_model_becomes_markup(explained: Explanation) -> None:
    evil = '<script>alert(1)</script><img src=x onerror="alert(2)">\'&amp;'
    source = Source(file=f"{evil}.py", line=1, code=evil)
    rows = tuple(
        Row(evil, f"{evil}.attention", (evil,), f"f32[{evil}]", (source,), (evil,), known)
        for known in (True, False)
    )
    section = Section(evil, rows, (evil,))
    passes = [dataclasses.replace(explained.passes[0], name=evil, skipped_because=evil)]
    page = dataclasses.replace(
        explained,
        name=evil,
        spec=SPEC.model_copy(update={"family": evil}),
        passes=passes,
        original=[section],
        canonical=[section],
        before=Counter({evil: 1}),
        after={evil: Counter({evil: 2})},
    ).html()
    read = Reader(page)
    assert not {"script", "img"} & set(read.tags)
    assert evil in "".join(read.texts)


def test_a_page_can_be_saved(explained: Explanation, tmp_path: object) -> None:
    path = f"{tmp_path}/page.html"
    explained.save_html(path)
    with open(path, encoding="utf-8") as file:
        assert file.read() == explained.html()


class Block(nn.Module):
    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.qkv, self.up, self.factor = nn.Linear(16, 48), nn.Linear(16, 16), factor

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, dim=-1)
        x = x + F.scaled_dot_product_attention(q, k, v)[:, 0]
        y = self.up(x)
        return x + (y if self.factor == 1.0 else y * self.factor)


class Stack(nn.Module):
    """Layers in a list, and other lists beside them."""

    def __init__(self, *factors: float) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(13, 16), nn.Linear(16, 13)
        self.layers = nn.ModuleList(Block(factor) for factor in factors)
        self.heads = nn.ModuleList([nn.Linear(16, 16)])

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.heads[0](x))


def titles(module: nn.Module) -> list[tuple[str, int]]:
    explained = explain(module, spec=SPEC)
    found = [(section.title, len(section.alike)) for section in explained.canonical]
    assert [(section.title, len(section.alike)) for section in explained.original] == found
    return found


def test_layers_that_are_alike_are_folded_and_others_are_not() -> None:
    assert titles(Stack(1.0, 1.0, 1.0)) == [
        ("before the layers", 0),
        ("layers.0", 2),
        ("after the layers", 0),
    ]
    assert titles(Stack(1.0, 2.0, 1.0)) == [
        ("before the layers", 0),
        ("layers.0", 0),
        ("layers.1", 0),
        ("layers.2", 0),
        ("after the layers", 0),
    ]


def test_without_a_list_of_layers_sections_go_from_attention_to_attention() -> None:
    class Long(Toy):
        layers = 4

    assert titles(Long()) == [
        ("before the layers", 0),
        ("from attention 1", 2),
        ("from attention 4", 0),
    ]


@pytest.fixture(scope="module")
def boxes(explained: Explanation) -> dict[str, tuple[float, float, float, float]]:
    """Left, top, right and bottom of the boxes of a layer by their index and text."""
    [layer] = [section for section in explained.canonical if section.alike]
    svg = ElementTree.fromstring(draw(layer))
    found = {}
    for index, group in enumerate(svg.iter("g")):
        [rect], text = group.findall("rect"), group.findtext("text")
        x, y, width, height = (float(rect.attrib[k]) for k in ("x", "y", "width", "height"))
        found[f"{index} {text}"] = (x, y, x + width, y + height)
    return found


def test_a_layer_is_drawn_from_top_to_bottom_without_overlap(
    explained: Explanation, boxes: dict[str, tuple[float, float, float, float]]
) -> None:
    names = [name.split(" ", 1)[1] for name in boxes]
    assert Counter(names) == {
        "embedding": 1, "cos": 1, "sin": 1, "dllmc.rms_norm": 2, "aten.linear": 7,
        "dllmc.rotary": 2, "dllmc.attention": 1, "dllmc.swiglu": 1, "aten.add": 2,
    }  # fmt: skip
    for one, other in itertools.combinations(boxes.values(), 2):
        apart = one[2] < other[0] or other[2] < one[0] or one[3] < other[1] or other[3] < one[1]
        assert apart
    tops = {name.split(" ", 1)[1]: box[1] for name, box in boxes.items()}
    assert tops["embedding"] < tops["dllmc.rotary"] < tops["dllmc.attention"] < tops["aten.add"]


def test_arrows_go_down_and_stay_inside(explained: Explanation) -> None:
    [layer] = [section for section in explained.canonical if section.alike]
    svg = ElementTree.fromstring(draw(layer))
    _, _, width, height = map(float, svg.attrib["viewBox"].split())
    arrows = [path for path in svg.iter("path") if path.attrib.get("class") == "flow"]
    # Two norms and adds, seven products, two rotations of three inputs each, attention, gate.
    assert len(arrows) == 2 + 4 + 7 + 6 + 3 + 2
    for arrow in arrows:
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", arrow.attrib["d"])]
        xs, ys = numbers[::2], numbers[1::2]
        assert ys[-1] > ys[0]
        assert all(0 <= x <= width for x in xs)
        assert all(0 <= y <= height for y in ys)
