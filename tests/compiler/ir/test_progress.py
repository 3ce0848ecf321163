from fxedge.compiler.ir.progress import Silent


def test_silent_takes_every_report_and_says_nothing(capsys):
    with Silent().track("calibrate", 10) as advance:
        advance(4)
        advance(10)
    with Silent().track("capture") as advance:
        advance(1)
    assert capsys.readouterr() == ("", "")
