"""The command line of the benchmarks."""

from importlib import import_module

import pytest

from benchmarks import __main__ as program
from benchmarks.options import Options


@pytest.mark.parametrize("name", program.MODULES)
def test_each_name_can_be_run(name: str) -> None:
    """Also where neither the peers nor h2load are installed: those are needed when it is measured."""
    assert callable(import_module(program.MODULES[name]).run)


@pytest.mark.parametrize("options", [Options(), Options(2), Options(3, 1000, "4f210fc")])
def test_a_result_names_the_command_that_makes_it(options: Options) -> None:
    """Each option that is not the default."""
    words = options.command("wire").split()
    assert words[:3] == ["python", "-m", "benchmarks"]
    assert program.read(words[3:]) == (["wire"], options)


def test_without_names_everything_is_measured() -> None:
    """In the order of the table."""
    assert program.read([]) == (list(program.MODULES), Options())


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """With what there is."""
    with pytest.raises(SystemExit):
        program.read(["wires"])
    assert "unknown: wires" in capsys.readouterr().err
