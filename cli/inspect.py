"""`dllmc inspect`: what an artifact is, without loading it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllmc.cli._console import output, print_json, say, table

if TYPE_CHECKING:
    from rich.table import Table

    from dllmc.artifact.binaries import Listing
    from dllmc.artifact.engines import EngineListing
    from dllmc.artifact.exports import ExportListing
    from dllmc.artifact.summary import Summary
    from dllmc.tuning_db import Record

_MB = 1e6
# Of the fields of a spec, those that say what the model can do.
_SHOWN = ("max_length", "prompt_slots", "block_length", "attention", "vocab_size", "mask_id")


def command(
    artifact: Annotated[str, typer.Argument(help="Folder that `dllmc compile` wrote.")],
    public_key: Annotated[
        str | None, typer.Option(metavar="PEM", help="Check that this key has signed it.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what ARTIFACT is: model, programs and targets, files, records, licence."""
    from dllmc.artifact.signature import check_signature
    from dllmc.artifact.summary import summarise

    if public_key is not None:
        check_signature(artifact, public_key)
    found = summarise(artifact)
    if json:
        print_json(_facts(artifact, found))
        return
    if public_key is not None:
        say(f"signed with the key of {public_key}\n")
    for name, value in _lines(found):
        say(f"{name:10} {value}")
    if found.listing is not None:
        say("")
        output().print(_program_table(found.listing))
    if found.engines is not None:
        say("")
        output().print(_engine_table(found.engines))
    if found.exports is not None:
        say("")
        output().print(_export_table(found.exports))
    say("")
    output().print(_file_table(found))
    say("")
    if found.records:
        output().print(_record_table(found.records))
    else:
        say("no tuning records: it decodes with those of this machine, else with SAFE")
    if found.notices:
        say(f"\n{found.notices.strip()}")


def _lines(found: Summary) -> list[tuple[str, object]]:
    manifest = found.manifest
    said = manifest.spec.model_dump()
    spec = ", ".join(f"{name} {said[name]}" for name in _SHOWN if said.get(name) is not None)
    lines: list[tuple[str, object]] = [
        ("model", f"{manifest.name}, {manifest.dtype}"),
        ("spec", spec),
        ("rounded", manifest.precision or "nothing: weights are as the model came"),
        ("back end", f"{manifest.backend}, lowered for {manifest.target}"),
        ("written by", f"dllmc {manifest.dllmc}, torch {manifest.torch}"),
        ("weights", f"sha256 {manifest.weights_sha256}"),
        ("size", f"{sum(found.sizes.values()) / _MB:.1f} MB in {len(found.sizes) + 1} files"),
    ]
    if found.listing is not None:
        target = found.listing.target
        needs = ", ".join(target.features)
        lines.append(
            ("runs on", f"{target.machine}, {target.isa} ({needs}), torch {target.torch}")
        )
    if found.engines is not None:
        engines = found.engines
        lines.append(("TensorRT", f"{engines.tensorrt}, {engines.architecture}"))
    if found.exports is not None:
        lines.append(("ONNX", f"opset {found.exports.opset}, for any ONNX runtime"))
    return lines


def _program_table(listing: Listing) -> Table:
    found = table(
        "program", "statistics", "mask", "inputs", "batch", "pieces", "calls", right=("pieces",)
    )
    for number, program in enumerate(listing.programs):
        found.add_row(
            str(number),
            program.statistics + (" + saliency" if program.saliency else ""),
            program.mask,
            program.inputs,
            "1" if program.single else "larger",
            str(len({call.piece for call in program.calls})),
            str(len(program.calls)),
        )
    return found


def _engine_table(listing: EngineListing) -> Table:
    sizes = {name: f"{size.least} to {size.most}" for name, size in listing.sizes.items()}
    found = table("TensorRT engine", "statistics", "mask", "inputs", *sizes)
    for program in listing.programs:
        found.add_row(
            program.file,
            program.statistics + (" + saliency" if program.saliency else ""),
            program.mask,
            program.inputs,
            *sizes.values(),
        )
    return found


def _export_table(listing: ExportListing) -> Table:
    found = table("ONNX model", "statistics", "mask", "inputs", "caches", right=("caches",))
    for program in listing.programs:
        found.add_row(
            program.file,
            program.statistics + (" + saliency" if program.saliency else ""),
            program.mask,
            program.inputs,
            str(len(program.caches)),
        )
    return found


def _file_table(found: Summary) -> Table:
    shown = table("file", "MB", "sha256", right=("MB",))
    for name, size in sorted(found.sizes.items()):
        shown.add_row(name, f"{size / _MB:.2f}", found.manifest.files[name][:16])
    return shown


def _record_table(records: list[dict[str, Any]]) -> Table:
    from dllmc.cli._config import describe
    from dllmc.policies.config import DecodingConfig
    from dllmc.spec import ConfigError, TuningDatabaseError
    from dllmc.tuning_db import Record

    shown = table("record", "task", "decodes by", "speed", "loses less than", "n", "chosen by")
    for value in records:
        try:
            record = Record.from_json(value)
            how = describe(DecodingConfig.model_validate(record.config))
        except (TuningDatabaseError, ConfigError) as error:
            shown.add_row(str(value.get("id")), "", f"not readable: {error}", "", "", "", "")
            continue
        shown.add_row(record.id[:8], *_row(record, how))
    return shown


def _row(record: Record, how: str) -> tuple[str, ...]:
    quality, speed = record.quality, record.speed
    return (
        record.key.workload.task or "any",
        how,
        "" if speed is None else f"{speed.ratio:.2f}x",
        "" if quality is None else f"{max(0.0, -quality.lower_bound):.1%}",
        "" if quality is None else str(quality.n),
        record.provenance.command,
    )


def _facts(artifact: str, found: Summary) -> dict[str, Any]:
    manifest = found.manifest.model_dump(mode="json", exclude={"report"})
    return {
        "artifact": str(Path(artifact)),
        **manifest,
        "sizes": dict(found.sizes),
        "tuning_records": found.records,
        "ahead_of_time": None if found.listing is None else found.listing.model_dump(mode="json"),
        "onnx": None if found.exports is None else found.exports.model_dump(mode="json"),
        "tensorrt": None if found.engines is None else found.engines.model_dump(mode="json"),
        "notices": found.notices,
    }
