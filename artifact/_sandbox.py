"""Jinja for templates that nobody has read: no code, no files, and an end.

Jinja's own sandbox keeps a template from reaching Python's insides. It bounds neither time nor
memory: two nested loops over `range(99999)`, or a text that doubles itself in forty lines, never
end. Here every loop step, call, text and container that a template makes is paid for out of one
budget.
"""

from __future__ import annotations

import datetime
import json
from types import GeneratorType
from typing import TYPE_CHECKING, Any, NoReturn

from jinja2 import Environment, Template, TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from jinja2.parser import Parser
    from jinja2.runtime import Context

# Those of Jinja that chat templates use and that make little of little.
_FILTERS = """
abs capitalize count d default dictsort e escape first float int items last length list lower map
max min reject rejectattr reverse round safe select selectattr sort title trim unique upper string
""".split()
# Text methods that take a size, which is then paid for, and those whose size is in a text.
_SIZED = ("center", "expandtabs", "ljust", "rjust", "zfill")
_FORMATTING = ("format", "format_map", "translate")
_LARGEST_NUMBER = 2**63
_LARGEST_POWER, _LARGEST_INDENT = 64, 100
# A call takes as long as so many steps of a loop.
_PER_CALL = 20


class RefusedError(TemplateError):
    """What a template says by `raise_exception`."""


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment for one rendering.

    Args:
        budget: Loop steps, calls, characters and elements that it may take in all.
    """

    intercepted_binops = frozenset({"*", "**", "%", "+"})

    def __init__(self, budget: int) -> None:
        # As chat templates are written for.
        extensions = [loopcontrols, _Generation]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
        self._left = budget
        self.filters = {name: self.filters[name] for name in _FILTERS}
        own = (self._tojson, self._join, _Priced.text, _Priced.made, _Priced.steps)
        self.filters |= {function.__name__: function for function in own}
        self.filters |= {"tojson": self._tojson, "join": self._join, "replace": self._replace}
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _refuse, "strftime_now": _now}

    def build(self, text: str) -> Template:
        """The template `text`, in which everything is paid for."""
        tree = _Pricing(self).visit(self.parse(text))
        return Template.from_code(self, self.compile(tree), self.make_globals(None))

    def spend(self, amount: int) -> None:
        """Pay; raise `SecurityError` where nothing is left."""
        self._left -= amount
        if self._left < 0:
            raise SecurityError("it makes more text or takes more steps than any chat needs")

    def spend_for(self, value: object, *, texts: bool) -> None:
        """Pay 1 for each element of `value`, and what is in it; for characters too if `texts`."""
        self.spend(len(value) if texts and isinstance(value, str) else 1)
        if isinstance(value, dict):
            for key, item in value.items():
                self.spend_for(key, texts=texts)
                self.spend_for(item, texts=texts)
        elif isinstance(value, list | tuple):
            for item in value:
                self.spend_for(item, texts=texts)

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call `function` for a template."""
        self.spend(_PER_CALL)
        name, owner = getattr(function, "__name__", ""), getattr(function, "__self__", None)
        if name in _FORMATTING:
            raise SecurityError(f"it uses `{name}`")
        # Methods of texts take no arguments by name; what comes by name is Jinja's own.
        if isinstance(owner, str) and name == "replace":
            return self._replace(owner, *args)
        if isinstance(owner, str) and name == "join":
            return self._join(args[0], owner)
        if name in _SIZED:
            sizes = (arg for arg in (*args, *kwargs.values()) if isinstance(arg, int))
            self.spend(sum(map(abs, sizes)) * (len(owner) if isinstance(owner, str) else 1))
        result = super().call(context, function, *args, **kwargs)
        self.spend_for(result, texts=isinstance(result, str))
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Calculate `left operator right` for a template."""
        sequences = [value for value in (left, right) if isinstance(value, str | list | tuple)]
        if operator == "%" and isinstance(left, str):
            raise SecurityError("it uses `%` on a text")
        if operator == "**" and not -_LARGEST_POWER <= right <= _LARGEST_POWER:
            raise SecurityError("it uses a large power")
        if operator == "*" and sequences:
            times = left if sequences[0] is right else right
            self.spend(len(sequences[0]) * max(times, 0) if isinstance(times, int) else 0)
        if operator == "+":
            self.spend(sum(map(len, sequences)))
        result = super().call_binop(context, operator, left, right)
        if isinstance(result, int) and abs(result) > _LARGEST_NUMBER:
            raise SecurityError("it counts beyond 64 bits")
        self.spend_for(result, texts=False)
        return result

    def _tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        # Jinja's own escapes what HTML does not allow, which models have not been trained on.
        self.spend_for(value, texts=True)
        if isinstance(indent, int) and indent > _LARGEST_INDENT:
            raise SecurityError("it indents by more than a line")
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def _join(self, value: Iterable[Any], d: str = "", attribute: str | None = None) -> str:
        items = list(value if attribute is None else map(make_attrgetter(self, attribute), value))
        self.spend_for(items, texts=True)
        self.spend(len(d) * len(items))
        return str(d).join(map(str, items))

    def _replace(self, text: str, old: str, new: str, count: int | None = None) -> str:
        text = str(text)
        self.spend(len(text) + text.count(old) * len(new))
        return text.replace(old, new, -1 if count is None else count)


class _Priced:
    """Filters that pay, put around what a template makes. Their context keeps Jinja from
    calculating them in advance.
    """

    @staticmethod
    @pass_context
    def text(context: Context, value: Any) -> Any:
        if isinstance(value, GeneratorType):
            value = list(value)
        _sandbox(context).spend_for(value, texts=True)
        return value

    @staticmethod
    @pass_context
    def made(context: Context, value: Any) -> Any:
        _sandbox(context).spend_for(value, texts=isinstance(value, str))
        return value

    @staticmethod
    @pass_context
    def steps(context: Context, value: Iterable[Any]) -> Iterator[Any]:
        sandbox = _sandbox(context)
        for item in value:
            sandbox.spend(1)
            yield item


class _Pricing(NodeTransformer):
    """Puts the priced filters around what makes texts and containers, and around loops."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def _priced(self, node: Any, name: str) -> nodes.Filter:
        found = nodes.Filter(node, name, [], [], None, None)
        found.set_environment(self._environment)
        found.set_lineno(node.lineno)
        return found

    def _made(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        is_target = getattr(node, "ctx", "load") != "load"
        return node if is_target else self._priced(node, "made")

    visit_Filter = visit_List = visit_Tuple = visit_Dict = _made  # noqa: N815

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.iter = self._priced(node.iter, "steps")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.nodes = [self._priced(part, "text") for part in node.nodes]
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        parts = (
            nodes.Const(part.data, lineno=part.lineno, environment=self._environment)
            if isinstance(part, nodes.TemplateData)
            else part
            for part in node.nodes
        )
        node.nodes = [self._priced(part, "text") for part in parts]
        return node


class _Generation(Extension):
    """`{% generation %}` marks what the assistant said, for training; here it says nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _sandbox(context: Context) -> Sandbox:
    assert isinstance(context.environment, Sandbox)
    return context.environment


def _refuse(message: object) -> NoReturn:
    raise RefusedError(str(message))


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form)
