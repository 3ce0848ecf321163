import math
from dataclasses import replace

import pytest
from fxedge.compiler.pipeline.ablation import PassEffect
from fxedge.compiler.pipeline.accuracy import Share
from fxedge.compiler.pipeline.explain import Culprit, Explanation, LayerError
from fxedge.compiler.pipeline.loss import Loss
from fxedge.compiler.pipeline.max_drop import MaxDrop, Relief
from fxedge.compiler.tools.explaining import certificate, print_explanation, relief_line
from fxedge.compiler.tools.tables import make_console

BROKEN = "promised close but changed an output by 0.5 of its magnitude (allowed 0.0001)"
FOUND = Explanation(
    "onnx",
    8,
    (
        PassEffect("capture", "float", 0, None),
        PassEffect(
            "fold-batch-norm", "float", 3, Loss(30.0, Share(1, 8)), 2e-7, notes=("bn: 3 of 4", "bn_1: all")
        ),
        PassEffect("broken", "float", 0, Loss(30.0, Share(1, 8)), 0.5, BROKEN),
        PassEffect("zero", "quantized", 2, Loss(12.0, Share(4, 8))),
    ),
    (
        LayerError("x_q", "x", "", "placeholder", 46.0, 0.99999, 46.0, 0.99999, None),
        LayerError("conv_q", "conv2d", "stem.0", "conv2d", 12.0, 0.9, math.inf, None, 41.25),
    ),
    Loss(12.0, Share(4, 8)),
    Culprit("conv2d", "stem.0", 0.125, 0.75),
    unseen=True,
)


def test_tables_and_verdict(capsys: pytest.CaptureFixture[str]):
    print_explanation(make_console(), FOUND)
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "onnx: what each pass bought, judged on samples of --eval, which nothing was tuned on",
        "after             changes   SQNR              top-1 as float        certificate",
        "capture                     not quantizable   -",
        "fold-batch-norm   3         30.0 dB           87.5 % [52.9, 97.8]   outputs moved by 2.0e-07 of their "
        "magnitude (allowed 0.0001)",
        "broken            0         30.0 dB           87.5 % [52.9, 97.8]   rolled back: promised close but "
        "changed an output by 0.5 of its magnitude (allowed",
        "                                                                    0.0001)",
        "zero              2         12.0 dB           50.0 % [21.5, 78.5]",
        "fold-batch-norm bn: 3 of 4",
        "fold-batch-norm bn_1: all",
        "",
        "onnx: error of each integer value, 8 samples",
        "value of   module   SQNR      cosine    own SQNR   own cosine   weight SQNR",
        "x                   46.0 dB   0.99999   46.0 dB    0.99999",
        "conv2d     stem.0   12.0 dB   0.90000   exact      -            41.2 dB",
        "",
        "zero costs 18.0 dB: leave it out, or see what it skipped and changed.",
        "The loss appears at stem.0 (conv2d): with everything behind it in float, 75% of the noise at the outputs "
        "is there already, and 12% with everything from it on in float.",
    ]


def test_nothing_lost(capsys: pytest.CaptureFixture[str]):
    exact = replace(FOUND, passes=(), layers=(), loss=Loss(math.inf, None), culprit=None, unseen=False)
    print_explanation(make_console(), exact)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == (
        "onnx: what each pass bought, judged on calibration samples, which passes may have been tuned on (--eval "
        "brings others)"
    )
    assert lines[-1] == "Nothing is lost: the outputs are those of the float model."


def test_a_loss_without_one_culprit(capsys: pytest.CaptureFixture[str]):
    spread = replace(FOUND, culprit=Culprit("add_3", "", 0.47, 0.51))
    print_explanation(make_console(), spread)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "The loss builds up over many layers: 51% of the noise at the outputs is there after add_3, with "
        "everything behind it in float."
    )


def test_certificates():
    assert certificate(None, None) == ""
    assert certificate(0.0, None) == "same outputs"
    assert certificate(None, BROKEN) == f"rolled back: {BROKEN}"


def test_what_max_drop_relieved():
    unit = "points of top-1 agreement"
    assert relief_line("onnx", MaxDrop(Relief(), 0.5, 0.5, unit, 64)) == (
        "onnx: loses 0.50 points of top-1 agreement on 64 held-out samples; no layer had to be relieved."
    )
    assert relief_line("onnx", MaxDrop(Relief(("a", "b"), ("c",)), 0.5, 9.0, unit, 64)) == (
        "onnx: loses 0.50 points of top-1 agreement on 64 held-out samples (9.00 without) with 8-bit weights for "
        "a, b and float for c."
    )
    assert relief_line("onnx", MaxDrop(Relief((), ("c",)), 0.5, 9.0, unit, 1)) == (
        "onnx: loses 0.50 points of top-1 agreement on 1 held-out sample (9.00 without) with float for c."
    )
