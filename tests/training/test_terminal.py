import io
import types

import pytest

from vision_jax.training import terminal as module
from vision_jax.training.terminal import Terminal, duration, number


class Screen(io.StringIO):
    def isatty(self):
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def screen(monkeypatch):
    monkeypatch.setattr(module.shutil, "get_terminal_size", lambda *_, **__: types.SimpleNamespace(columns=24))
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


def test_a_live_line_is_rewritten_and_fits(screen, tmp_path):
    clock = Clock()
    terminal = Terminal(screen, tmp_path / "log.txt", clock)
    assert terminal.is_due(stays=True) and not terminal.is_due(stays=False)
    terminal.progress(["step 1/1,000", "loss 6", "lr 0.001"], stays=True)
    clock.now = 1
    assert terminal.is_due(stays=False)
    terminal.progress(["step 3/1,000", "loss 1.25", "lr 0.001"], stays=False)
    terminal.say("saved", "good")
    terminal.close()
    first, second = "step 1/1,000  loss 6", "step 3/1,000  loss 1.25"
    erased = [f"\r{' ' * len(line)}\r" for line in (first, second)]
    assert screen.getvalue() == f"{first}{erased[0]}{second}{erased[1]}\x1b[32msaved\x1b[0m\n"
    assert (tmp_path / "log.txt").read_text() == "step 1/1,000  loss 6  lr 0.001\nsaved\n"


def test_plain_lines_elsewhere_at_least_every_half_minute(tmp_path):
    clock, stream = Clock(), io.StringIO()
    terminal = Terminal(stream, tmp_path / "log.txt", clock)
    terminal.say("starts", "good")
    for now in range(0, 95, 10):
        clock.now = now
        if terminal.is_due(stays=False):
            terminal.progress([f"at {now}", "more"], stays=False)
    terminal.live("only on a terminal")
    terminal.close()
    assert stream.getvalue() == "starts\nat 30  more\nat 60  more\nat 90  more\n"
    assert (tmp_path / "log.txt").read_text() == stream.getvalue()


@pytest.mark.parametrize("variable", [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_none_is_wanted(screen, monkeypatch, variable):
    monkeypatch.setenv(*variable)
    Terminal(screen).say("saved", "good")
    assert screen.getvalue() == "saved\n"


def test_what_takes_long_is_told_as_it_begins(tmp_path):
    clock, stream = Clock(), io.StringIO()
    terminal = Terminal(stream, tmp_path / "log.txt", clock)
    with terminal.timed("compiling"):
        assert stream.getvalue() == "compiling ... "
        clock.now = 75
    with pytest.raises(KeyError), terminal.timed("compiling"):
        raise KeyError
    assert stream.getvalue() == "compiling ... 1 min 15 s\ncompiling ... not finished\n"
    assert (tmp_path / "log.txt").read_text() == stream.getvalue()


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    stream = io.StringIO()
    terminal = Terminal(stream, tmp_path / "nowhere" / "log.txt")
    terminal.say("goes on")
    terminal.say("and on")
    assert stream.getvalue() == "goes on\nand on\n"


def test_numbers_and_durations():
    assert [number(x) for x in (None, 1234567, 12345.6, 0.123456, 1e-5)] == [
        "not finite", "1,234,567", "12,346", "0.1235", "1e-05",
    ]  # fmt: skip
    assert [duration(x) for x in (0.04, 9.96, 59.4, 59.6, 3599, 7260)] == [
        "0.0 s", "10.0 s", "59 s", "1 min 00 s", "59 min 59 s", "2 h 01 min",
    ]  # fmt: skip
