"""The command line: `fxedge compile | verify | report | package | bench | diff | predict | inspect | ...`.

Results go to stdout, everything else to stderr. Errors are one paragraph; `exits` lists the exit statuses.
Commands import what they need when they run, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.completion import completion_init

from ... import __version__
from ..pipeline.memory import keep_freed_memory
from . import exits, flags

app = typer.Typer(
    name="fxedge",
    help="Compile PyTorch models to verified int8 artifacts for edge runtimes.",
    invoke_without_command=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


_COMPLETE = "_FXEDGE_COMPLETE"


def main() -> None:
    """The console script; a shell that asks for completions gets them (`_FXEDGE_COMPLETE=source_bash fxedge`)."""
    if _COMPLETE in os.environ:
        completion_init()
        typer.main.get_command(app).main(prog_name="fxedge", complete_var=_COMPLETE)
    keep_freed_memory()
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit status; errors are on stderr by then."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    command = typer.main.get_command(app)
    try:
        with exits.sigterm_unwinds(), _quiet_libraries():
            # not command(...): that ends the process itself after Ctrl-C and at a closed pipe
            with command.make_context("fxedge", list(arguments)) as context:
                command.invoke(context)
            sys.stdout.flush()
    except typer.Exit as done:
        return done.exit_code
    except (Exception, KeyboardInterrupt) as error:
        return exits.report_exception(error)
    return exits.DONE


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Keep library warnings and log lines out of the output: failures come as exceptions, and are told as such.

    -W and PYTHONWARNINGS bring warnings back.
    """
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"fxedge {__version__}")
        raise typer.Exit


@app.callback()
def _fxedge(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Say the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(exits.WRONG_INPUT)


@app.command("compile")
@flags.takes(
    *("model", "weights", "calib", "eval", "target", "output", "config"),
    *(*flags.RECIPE, *flags.READING, "eval_limit", *flags.PREPROCESS, "keep_float"),
    *("float", "threads", "parity_samples", "timed_runs", "max_drop", "explain", "force", "json", "quiet"),
)
def compile_command(given: dict[str, Any]) -> None:
    """Compile MODEL into a verified bundle, one int8 artifact for each target."""
    from .compiling import run_compile
    from .config import make_config
    from .summary import print_summary, to_json
    from .tables import make_console, print_json

    chosen = make_config(flags.gather(given), given["config"])
    outcome = run_compile(chosen)
    if chosen.as_json:
        print_json(to_json(outcome))
    else:
        print_summary(make_console(), outcome)
    raise typer.Exit(outcome.status)


@app.command()
def verify(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that fxedge compile wrote.")],
    target: flags.VerifyTargets = None,
    threads: flags.Threads = 1,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Check a bundle: its hashes, then every artifact on the installed runtime against the golden outputs."""
    from .tables import make_console, print_json
    from .verifying import print_verdicts, run_verify, verdict_status, verdicts_json

    chosen = flags.comma_list(target) or ()
    report = run_verify(bundle, chosen, threads=threads or 1, quiet=bool(quiet))
    if json:
        print_json(verdicts_json(report))
    else:
        print_verdicts(make_console(), bundle, report)
    raise typer.Exit(verdict_status(report, named=bool(chosen)))


@app.command()
@flags.takes(*flags.BENCH, "json", "quiet", **flags.BENCH, json=flags.RECORD)
def bench(given: dict[str, Any]) -> None:
    """Measure bundles on this machine, int8 and float by turns; compare two recorded runs; or measure kernels."""
    from .bench.benching import BenchOptions
    from .bench.command import Output, check_flags, run_bench, run_calibration, run_compare, run_remote

    check_flags(given)
    output = Output(given["json"], bool(given["quiet"]))
    paths = tuple(given["bundles"] or ())
    if given["compare"]:
        status = run_compare(paths, margin=given["margin"] / 100, force=given["force"], output=output)
        raise typer.Exit(status)
    if given["calibrate_machine"]:
        targets, threads = flags.comma_list(given["target"]) or (), flags.counts(given["threads"], "--threads")
        raise typer.Exit(run_calibration(targets, threads, given["runs"], output))
    options = BenchOptions(
        targets=flags.comma_list(given["target"]) or (),
        threads=flags.counts(given["threads"], "--threads"),
        batch=given["batch"],
        runs=given["runs"],
        seconds=given["seconds"],
        against=tuple(given["against"] or ()),
    )
    if given["adb_binary"] is not None:
        raise typer.Exit(run_remote(paths, options, given["adb_binary"], given["adb"], output))
    raise typer.Exit(run_bench(paths, options, output))


@app.command()
@flags.takes(*flags.DIFF, "json", "quiet", **flags.DIFF)
def diff(given: dict[str, Any]) -> None:
    """Compare two bundles: accuracy, errors of layers, latency, size, ops in float. Status 1 if a limit breaks."""
    from .diff.command import Form, Request, run_diff
    from .diff.limits import Limits

    limits = Limits(**{name: given[f"max_{name}"] for name in Limits.__slots__})
    form: Form = "json" if given["json"] else "markdown" if given["markdown"] else "table"
    chosen = flags.comma_list(given["target"]) or ()
    request = Request(
        given["old"], given["new"], chosen, limits, given["runs"], given["threads"], form, bool(given["quiet"])
    )
    raise typer.Exit(run_diff(request))


@app.command()
@flags.takes(*flags.REPORT, "json", "quiet", **flags.REPORT)
def report(given: dict[str, Any]) -> None:
    """Draw a bundle as one HTML file that loads nothing: accuracy, errors, ranges, graph, passes, latency."""
    from .progress import make_progress
    from .report.command import run_report
    from .tables import print_json, size_text

    out, benches = given["output"], given["bench"] or ()
    progress = make_progress(quiet=bool(given["quiet"]))
    manifest, size = run_report(given["bundle"], out, benches, force=bool(given["force"]), progress=progress)
    if given["json"]:
        print_json({"report": str(out), "size": size, "targets": list(manifest.targets)})
    else:
        print(f"{out}: {manifest.model}, {', '.join(manifest.targets)}, {size_text(size)}")


@app.command()
@flags.takes(
    *("source", "target", "weights", "calib", "config", *flags.RECIPE, *flags.READING, *flags.PREPROCESS),
    *("keep_float", "json", "quiet"),
    source=flags.SOURCE,
    target=flags.TARGETS,
)
def inspect(given: dict[str, Any]) -> None:
    """Show a model's graph and passes, the plan for --target, and ranges where data are given; or a bundle."""
    from ..pipeline.bundle import read_bundle
    from .config import make_config
    from .inspecting import inspect_model, inspection_json, print_inspection, print_manifest
    from .tables import make_console, print_json

    source, as_json = given["source"], given["json"]
    if Path(source).is_dir():
        manifest = read_bundle(Path(source))
        print_json(manifest.model_dump(mode="json")) if as_json else print_manifest(make_console(), manifest)
        return
    chosen = flags.gather(given) | {"model": source, "target": given["target"] or ()}
    found = inspect_model(make_config(chosen, given["config"]))
    print_json(inspection_json(found)) if as_json else print_inspection(make_console(), found)


@app.command()
@flags.takes(
    *("model", "target", "weights", "calib", "config", *flags.RECIPE, *flags.READING, *flags.PREPROCESS),
    *("keep_float", "threads", "measure", "json", "quiet"),
    measure=flags.MEASURE,
)
def predict(given: dict[str, Any]) -> None:
    """Say, before any calibration, what each target will make of MODEL, and whether int8 will be faster here."""
    from .config import make_config
    from .predicting import predictions_json, print_predictions, run_predict
    from .tables import make_console, print_json

    measure = given.pop("measure")
    found = run_predict(make_config(flags.gather(given), given["config"]), measure)
    print_json(predictions_json(found)) if given["json"] else print_predictions(make_console(), found)
    raise typer.Exit(found.status)


@app.command()
@flags.takes(
    *("model", "target", "bits", "samples", "weights", "calib", "config"),
    *(name for name in flags.RECIPE if name != "weight_bits"),
    *(*flags.READING, *flags.PREPROCESS, "keep_float", "json", "quiet"),
    target=flags.ONE_TARGET,
    bits=flags.BITS,
    samples=flags.SAMPLES,
)
def sensitivity(given: dict[str, Any]) -> None:
    """Rank the layers of MODEL by what is lost when only that layer is quantized, at several widths of weights."""
    from .config import make_config
    from .sensing import print_sensitivity, run_sensitivity, sensitivity_json
    from .tables import make_console, print_json

    widths, count = given.pop("bits"), given.pop("samples")
    found = run_sensitivity(make_config(flags.gather(given), given["config"]), widths, count)
    print_json(sensitivity_json(found)) if given["json"] else print_sensitivity(make_console(), found)


@app.command()
def package(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that fxedge compile wrote.")],
    kind: Annotated[str, typer.Option("--as", metavar="KIND", help="android, ios, web or python.")],
    target: flags.PackageTarget = None,
    labels: flags.Labels = None,
    output: flags.PackageOutput = None,
    force: flags.PackageForce = False,
    json: flags.Json = False,
    quiet: flags.Quiet = False,
) -> None:
    """Make what people install of a bundle: an Android or Swift module, a web page, a Python folder."""
    from .packaging import packaged_json, print_packaged, run_package
    from .tables import make_console, print_json

    packaged = run_package(
        bundle, kind, target=target, labels=labels, output=output, force=bool(force), quiet=bool(quiet)
    )
    print_json(packaged_json(packaged)) if json else print_packaged(make_console(), packaged)


@app.command()
def targets(json: flags.Json = False) -> None:
    """List the targets: what they accept, how exactly their arithmetic is known, whether they run here."""
    from .tables import make_console, print_json
    from .targets import describe_targets, print_targets

    found = describe_targets()
    print_json(found) if json else print_targets(make_console(), found)


@app.command()
def doctor(json: flags.Json = False) -> None:
    """Say what is installed, what the processor can do, and which targets can be used."""
    from .doctor import examine, print_findings
    from .tables import make_console, print_json

    found = examine()
    print_json(found.to_json()) if json else print_findings(make_console(), found)
