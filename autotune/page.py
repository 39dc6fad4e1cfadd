"""A job as one page that opens without a network, made of its JSON alone."""

from __future__ import annotations

import json
from html import escape
from statistics import median
from typing import TYPE_CHECKING, Any, Final

from dllmc.artifact import write_atomically
from dllmc.autotune import _floors_page, _front_page, _picture
from dllmc.autotune.details import FORMAT, VERSION, flattered
from dllmc.compiler import html_page
from dllmc.spec import TuningError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_STYLE: Final = """
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; }
.lead { font-size: 1.1rem; max-width: 60rem; } .wide { overflow-x: auto; }
.bar { background: #2a7de1; height: .7rem; display: inline-block; border-radius: 2px; }
.confirmed { color: #1a7f37; } .lost { color: #c2410c; }
th[data-sort] { cursor: pointer; }
"""
# Sorts a table by the column whose head is clicked.
_SCRIPT: Final = """
for (const head of document.querySelectorAll("#trials th")) {
  head.dataset.sort = "";
  head.addEventListener("click", () => {
    const index = head.cellIndex, body = head.closest("table").tBodies[0];
    const value = row => row.cells[index].textContent.trim();
    const rows = [...body.rows], down = head.dataset.sort !== "down";
    rows.sort((a, b) => {
      const [x, y] = [value(a), value(b)], [m, n] = [parseFloat(x), parseFloat(y)];
      const order = isNaN(m) || isNaN(n) ? x.localeCompare(y) : m - n;
      return down ? order : -order;
    });
    head.dataset.sort = down ? "down" : "up";
    body.append(...rows);
  });
}
"""


def page(value: Mapping[str, Any]) -> str:
    """The page of what `details` gave.

    Raises:
        TuningError: It is of a newer version, or something else.
    """
    if value.get("format") != FORMAT or value.get("version") != VERSION:
        raise TuningError(
            f"this is no tuning report of version {VERSION} (`format`={value.get('format')!r}, "
            f"`version`={value.get('version')!r}); give the JSON that dllmc tune wrote"
        )
    report = value["report"]
    title = f"dllmc tune {value['circumstances']['model']}, task {report['task']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="lead">{escape(_decision(value))}</p>',
        f"<p>{escape(_baseline(report))}</p>",
        *(f"<p>{escape(note)}</p>" for note in report["notes"]),
        "<h2>What was found</h2>",
        _rows(report),
        *_front_page.section(report),
        *_floors_page.section(value),
        "<h2>Speed and quality</h2>",
        _picture.pareto(value),
        "<p>Each point is a configuration on the tune prompts, with its 95 % intervals "
        "where it was tested: green is confirmed, red is not, blue "
        f"{_front_page.seeming(report)}, grey was too lossy or too slow. The dashed line is the "
        "margin. Hover over a point for what it is.</p>",
        "<h2>Held-out prompts</h2>",
        _verdicts(report),
        *_bias(value),
        *_predictions(report),
        "<h2>What mattered for the speed</h2>",
        _importance(value),
        f"<h2>What was tried ({len(value['trials'])})</h2>",
        f'<div class="wide" id="trials">{_trials(value)}</div>',
        "<h2>How it was measured</h2>",
        _preflight(value),
        _circumstances(value),
    ]
    return html_page.document(title, "".join(parts), style=_STYLE, script=_SCRIPT)


def write(value: Mapping[str, Any], path: Path) -> list[Path]:
    """Write the page to `path` and its JSON beside it; returns both.

    Raises:
        TuningError: They cannot be written.
    """
    beside = path.with_suffix(".json")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(beside, json.dumps(value, indent=1) + "\n")
        write_atomically(path, page(value))
    except OSError as error:
        raise TuningError(
            f"the report {path} cannot be written ({error.strerror}); name another with --report"
        ) from error
    return [path, beside]


def _decision(value: Mapping[str, Any]) -> str:
    report = value["report"]
    if report["status"] != "confirmed":
        return f"Nothing was confirmed, and SAFE ships: {report['reason']}."
    row = next(r for r in report["rows"] if r["name"] == "tuned")
    passed = [v for v in report["verdicts"] if v["passed"]][-1]
    words = next(
        (t["words"] for t in value["trials"] if t["config"] == report["config"]), "the winner"
    )
    return (
        f"{words} decodes {row['ratio']:.2f} times as fast as SPEED_BASELINE "
        f"({row['interval'][0]:.2f} to {row['interval'][1]:.2f}) and loses less than "
        f"{max(0.0, -passed['lower_bound']):.1%} of right answers, with 95 % confidence, on "
        f"{passed['n']} prompts that the search has not seen; the margin was "
        f"{report['margin']:.1%}."
    )


def _baseline(report: Mapping[str, Any]) -> str:
    verdict = {
        True: "keeps this margin itself",
        False: "does not keep this margin",
        None: "may keep this margin or not: the prompts do not tell",
    }
    return f"SPEED_BASELINE {verdict[report['baseline_passes']]}."


def _rows(report: Mapping[str, Any]) -> str:
    columns = ("", "split", "prompts", "right", "evaluations", "tokens/s", "speed")
    rows = [
        (
            escape(row["name"]),
            escape(row["split"]),
            str(row["n"]),
            f"{row['exact_match']:.3f}",
            f"{row['nfe_mean']:.1f}",
            f"{row['tokens_per_second']:.0f}",
            f"{row['ratio']:.2f} ({row['interval'][0]:.2f}&ndash;{row['interval'][1]:.2f})",
        )
        for row in report["rows"]
    ]
    return html_page.table(columns, rows, numbers=5)


def _verdicts(report: Mapping[str, Any]) -> str:
    if not report["verdicts"]:
        return f"<p>None was tested: {escape(report['reason'] or '')}.</p>"
    columns = ("", "verdict", "prompts", "won", "lost", "difference", "at least", "p", "level")
    rows = [
        (
            f"<code>{escape(json.dumps(_short(v['config'])))}</code>",
            '<span class="confirmed">confirmed</span>'
            if v["passed"]
            else f'<span class="lost">{escape(v["reason"] or "not confirmed")}</span>',
            str(v["n"]),
            str(v["wins"]),
            str(v["losses"]),
            f"{v['difference']:+.3f}",
            f"{v['lower_bound']:+.3f}",
            f"{v['p_value']:.3f}",
            f"{v['level']:.3f}",
        )
        for v in report["verdicts"]
    ]
    told = (
        f"<p>{_front_page.order(report)}, so that the probability that any that passed breaks the "
        "margin is 5 % at most.</p>"
    )
    return told + html_page.table(columns, rows, numbers=7)


def _bias(value: Mapping[str, Any]) -> list[str]:
    rows = [
        (escape(words), f"{searched:+.3f}", f"{fresh:+.3f}")
        for words, searched, fresh in flattered(value)
    ]
    if not rows:
        return []
    return [
        "<h3>What selection had flattered</h3>",
        html_page.table(("", "difference in the search", "on fresh prompts"), rows, numbers=2),
    ]


def _predictions(report: Mapping[str, Any]) -> list[str]:
    found = report["predictions"]
    if not found:
        return []
    error = median(abs(item["error"]) for item in found)
    rows = [
        (
            f"<code>{escape(json.dumps(_short(item['config'])))}</code>",
            f"{item['predicted']:.2f}",
            f"{item['measured']:.2f}",
            f"{item['error']:+.1%}",
        )
        for item in found
    ]
    return [
        "<h3>Speed predicted from steps</h3>",
        f"<p>From what prompts needed and how long its plans take; median error {error:.1%}.</p>",
        html_page.table(("", "predicted", "measured", "error"), rows, numbers=3),
    ]


def _importance(value: Mapping[str, Any]) -> str:
    found = value["importance"]
    if not found:
        return "<p>Too few configurations were decoded to the end to tell.</p>"
    largest = max(found.values()) or 1.0
    rows = [
        (
            escape(name),
            f'<span class="bar" style="width: {12 * share / largest:.2f}rem"></span>',
            f"{share:.2f}",
        )
        for name, share in found.items()
    ]
    count = value["report"]["trials"]["complete"]
    return (
        f"<p>Share of what sets {_front_page.best(value['report'])} apart, by PED-ANOVA over "
        f"{count} trials. It says what went along with that here, not what causes it, and is "
        "rough for knobs that few of them have.</p>"
        + html_page.table(("", "", "share"), rows, numbers=1)
    )


def _trials(value: Mapping[str, Any]) -> str:
    columns = ("#", "configuration", "outcome", "why", "prompts", "difference", "speed")
    rows = [
        (
            str(row["number"]),
            escape(f"{row['words']}{f' ({preset})' if (preset := row['preset']) else ''}"),
            escape(row["outcome"]),
            escape(row["why"] or ""),
            str(row.get("n", 0)),
            "" if row.get("difference") is None else f"{row['difference']:+.3f}",
            "" if row.get("ratio") is None else f"{row['ratio']:.2f}",
        )
        for row in value["trials"]
    ]
    return html_page.table(columns, rows, numbers=3)


def _preflight(value: Mapping[str, Any]) -> str:
    found = value["preflight"]
    rows = [
        ("tune prompts", str(found["tune_prompts"])),
        ("confirm prompts", str(found["confirm_prompts"])),
        ("QUALITY_REFERENCE, per prompt", f"{found['reference_seconds'] * 1e3:.1f} ms"),
        ("SPEED_BASELINE, per prompt", f"{found['baseline_seconds'] * 1e3:.1f} ms"),
        ("prompts that only one of the two answers right", f"{found['discordance']:.1%}"),
        ("timing of the baseline against itself, sure to", f"{found['noise_floor']:.1%}"),
        ("smallest margin that could be confirmed", f"{found['smallest_margin']:.3f}"),
    ]
    return html_page.table(("", "before the search"), rows, numbers=1)


def _circumstances(value: Mapping[str, Any]) -> str:
    report, found = value["report"], value["circumstances"]
    facts = {
        "command": found["command"],
        "started": found["started"],
        "took": f"{report['spent']:.0f} s",
        "record": report["record"],
        "study": f"{report['study']} in {report['storage']}",
        "hardware": found["hardware"],
        "execution": f"{found['execution']}, numerics {found['numerics']}",
        "software": ", ".join(f"{name} {v}" for name, v in found["software"].items()),
        "batch": f"{found['batch']}, {found['max_new_tokens']} new tokens",
        "seed": str(found["seed"]),
        "weights": found["weights_sha256"],
    }
    rows = [(name, f"<code>{escape(str(text))}</code>") for name, text in facts.items()]
    return html_page.table(("", "circumstances"), rows)


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without the axes that are as usual."""
    usual = {"mask", "none", "probability", "eos"}
    return {
        axis: policy
        for axis, policy in config.items()
        if isinstance(policy, dict) and policy["kind"] not in usual
    }
