"""What a log tells of long work."""

from kmat import console


def test_a_log_has_a_line_every_half_minute_before_anything_is_done_too(monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: clock[0])
    with console.counted("running", 4) as advance:
        for now, done in ((20, 0), (40, 0), (60, 1), (80, 1), (120, 1), (160, 1)):
            clock[0] = now
            advance(done, "0 failed")
    assert capsys.readouterr().err.splitlines() == [
        "running: 0 of 4",
        "running: 2 of 4, 0.025/s, 80 s left",
        "running: 3 of 4, 0.025/s, 40 s left",
    ]
