"""A user's schedule with a fault, on the command line: one sentence, and exit code 2."""

from pathlib import Path

import pytest

from schedules.schedule import schedules
from tests.moelab.conftest import SMALL
from tests.sim import starving
from tests.test_docs import install_entry_points

ENGINES = pytest.mark.parametrize("engine", ["compiled", "simpy"])


@pytest.fixture(scope="module", autouse=True)
def package(tmp_path_factory):
    """The schedules, installed as a package would be; they are gone afterwards."""
    folder = tmp_path_factory.mktemp("package")
    lines = [f'{kind.name} = "{kind.__module__}:{kind.__name__}"' for kind in starving.ALL]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        project = '[project]\nname = "starving"\n[project.entry-points."moelab.schedules"]\n'
        Path("pyproject.toml").write_text(project + "\n".join(lines), encoding="utf-8")
        install_entry_points()
        yield
    schedules.cache_clear()


@ENGINES
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("too-large", ["'place' needs 40.00 GB", "the pool holds 15.50 GB"]),
        ("too-large-at-work", ["'workspace'", "place 1.00 GB last used by task", "'compute' on"]),
        ("leak", ["the oldest 'KV page[1]'", "'store_kv' on d2h", "never freed?", "issued last:"]),
        ("leak-by-layer", ["the oldest 'KV page[0]'", "'store_kv' on d2h", "issued last: task"]),
        ("waits-ahead", ["task 1 ('load' on h2d", "waited for, but it has not been issued yet"]),
    ],
)
def test_a_fault_is_named(cli, name, said, engine):
    words = SMALL.replace("--gen-len 3", "--gen-len 40").split()
    sentence = cli("simulate", name, *words, "--engine", engine).mistake
    assert all(part in sentence for part in said)


@ENGINES
def test_beside_others_it_is_a_line_of_the_table(cli, engine):
    words = SMALL.replace("--gen-len 3", "--gen-len 40").split()
    found = cli("compare", "leak", "flexgen", *words, "--engine", engine)
    assert found.code == 0
    assert "leak does not fit: pool 'gpu' is too small: 'KV page[" in " ".join(found.out.split())


def test_memory_that_is_gone_is_a_fault_of_the_schedule(cli):
    found = cli("simulate", "reads-what-is-gone", *SMALL.split())
    assert found.code == 1
    assert found.err.startswith("moelab: buffer 'place' is used by task ")
    assert found.err.count("\n") == 1
