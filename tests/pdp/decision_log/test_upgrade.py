"""A log of the earlier version is read, verified and sent once, and then gone."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from pdp.decision_log.log import DecisionLog
from pdp.decision_log.segments import MAGIC
from pdp.decision_log.verify import records, verify
from pdp.log_format import documents, old_lines
from tests.pdp.decision_log.chains import Kept, append, opened, record, ship
from tests.pdp.decision_log.old_logs import FOLDER, copied, documents_of, old_file

SENT = 4
"""The note in the folder says so."""
DOCUMENTS = documents_of(FOLDER)
OLD = [old_lines.read(path.read_bytes()) for path in sorted(FOLDER.glob("*.log"))]
RECORDS = [one for file in OLD for one in file.records]
LAST = RECORDS[-1].sequence


class Upgraded(Kept):
    """A store that has the first records of the old log, and the hash of the last one of them."""

    def __init__(self, sent: int = SENT) -> None:
        super().__init__()
        self.sent = sent
        self._hash = next(one.hash for one in RECORDS if one.sequence == sent) if sent else bytes(32)

    @property
    def sequence(self) -> int:
        """The newest sequence that is kept."""
        return max(self.sent, super().sequence)


def shown(store: Kept) -> list[documents.Document]:
    """The records that came, as JSON."""
    return [documents.document(one.record) for one in store.records]


def paths(folder: Path) -> list[Path]:
    return sorted((folder / "decisions").glob("*.log"))


def noted(folder: Path, sequence: int) -> None:
    """The store has acknowledged every record up to there."""
    log = DecisionLog(folder / "elsewhere", 1 << 20, lambda: 0.0)
    log.keep(sequence)
    (folder / "elsewhere" / "kept").replace(folder / "decisions" / "kept")


def test_what_is_not_sent_is_sent_as_it_was_under_its_number(tmp_path: Path) -> None:
    """The chain goes on from the hash that the store has, through new decisions, and over a restart."""
    copied(tmp_path)
    log, store = opened(tmp_path), Upgraded()
    assert (log.last, log.kept, log.unsent, log.dropped, log.damaged) == (LAST, SENT, LAST - SENT, 0, 0)
    append(log, [record(100)])
    log = opened(tmp_path)
    append(log, [record(101)])
    ship(log, store)
    assert shown(store)[:-2] == [one for one, old in zip(DOCUMENTS, RECORDS, strict=True) if old.sequence > SENT]
    assert [one.sequence for one in store.records][:-2] == [one.sequence for one in RECORDS if one.sequence > SENT]
    assert (store.breaks, store.missing()) == (0, {13, 14, 15})


def test_the_files_in_the_old_form_are_gone(tmp_path: Path) -> None:
    """At once; what they held goes as it is sent."""
    copied(tmp_path)
    log = opened(tmp_path)
    assert all(path.read_bytes().startswith(MAGIC) for path in paths(tmp_path))
    assert not list((tmp_path / "decisions").glob("*.new"))
    ship(log, Upgraded())
    assert len(paths(tmp_path)) == 1
    assert opened(tmp_path).unsent == 0


@pytest.mark.parametrize("sent", [0, 8, 12, 19, 20, LAST])
def test_any_part_of_it_may_be_sent(tmp_path: Path, sent: int) -> None:
    """Up to the end of a file, into it, before a gap, or all: the next record follows the last one that was sent."""
    copied(tmp_path)
    noted(tmp_path, sent)
    log, store = opened(tmp_path), Upgraded(sent)
    append(log, [record(100)])
    ship(log, store)
    assert [one.sequence for one in store.records] == [
        *(one.sequence for one in RECORDS if one.sequence > sent),
        LAST + 1,
    ]
    assert (store.breaks, log.dropped, log.damaged) == (0, 0, 0)


class Killed(BaseException):
    """The process dies here."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process is killed before it renames or removes a file for the time after `step`."""
    left = iter(range(step, -1, -1))
    replace, unlink = Path.replace, Path.unlink

    def step_on() -> None:
        if next(left, 1) == 0:
            raise Killed

    def replaced(path: Path, target: Path) -> Path:
        step_on()
        return replace(path, target)

    def removed(path: Path, missing_ok: bool = False) -> None:
        step_on()
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched, suppress(Killed):
        patched.setattr(Path, "replace", replaced)
        patched.setattr(Path, "unlink", removed)
        yield


@pytest.mark.parametrize("step", range(5))
def test_an_interrupted_upgrade_goes_on(tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill between any two steps nothing is lost, and no record has two numbers."""
    copied(tmp_path)
    with killed_at(step, monkeypatch):
        opened(tmp_path)
        pytest.fail("it was not killed")
    assert verify(tmp_path / "decisions").whole or step == 1, "both forms of a file are there"
    log, store = opened(tmp_path), Upgraded()
    ship(log, store)
    assert shown(store) == [one for one, old in zip(DOCUMENTS, RECORDS, strict=True) if old.sequence > SENT]
    assert (store.breaks, log.dropped, log.damaged) == (0, 0, 0)


def damaged(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("which", [0, 1, -1], ids=["the oldest", "one within", "the newest"])
@pytest.mark.parametrize("offset", [3, 100, 160, 700], ids=["magic", "number", "hash", "document"])
def test_damage_is_told_as_before(tmp_path: Path, which: int, offset: int, caplog: pytest.LogCaptureFixture) -> None:
    """A copy for people, and a gap record for what is lost; no number is used twice, and the rest is sent."""
    copied(tmp_path)
    noted(tmp_path, 0)
    damaged(paths(tmp_path)[which], offset)
    log, store = opened(tmp_path), Upgraded(0)
    append(log, [record(100)])
    ship(log, store)
    sent = {one.sequence for one in store.records}
    assert shown(store)[-1]["decision_id"] == "100"
    assert set(range(1, log.last + 1)) - sent == store.missing() | {13, 14, 15}
    assert log.dropped >= 1
    assert log.damaged == 1
    assert len(list((tmp_path / "decisions").glob("*.damaged"))) == 1
    assert "is damaged; kept as" in caplog.text
    again, store_again = opened(tmp_path), Upgraded(0)
    store_again.sent = log.last
    ship(again, store_again)
    assert (again.damaged, again.dropped, store_again.records) == (0, 0, [])


def test_a_missing_file_gets_a_gap(tmp_path: Path) -> None:
    """As before."""
    copied(tmp_path)
    paths(tmp_path)[1].unlink()
    log, store = opened(tmp_path), Upgraded()
    ship(log, store)
    lost = {one.sequence for one in OLD[1].records}
    assert store.missing() == {*range(min(lost), max(lost) + 1)}
    assert log.dropped == len(store.missing())


def test_a_torn_last_line_is_cut_off(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its number was not used."""
    folder = copied(tmp_path)
    newest = paths(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-1])
    log = opened(tmp_path)
    assert (log.last, log.damaged, log.dropped) == (LAST - 1, 0, 0)
    assert not list(folder.glob("*.damaged"))
    assert not [one for one in caplog.records if one.levelno > logging.INFO]


def test_a_record_that_has_no_new_form_is_set_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A gap record has its number; those around it are sent."""
    unknown = b'{"something":"else"}'
    good = documents.text(DOCUMENTS[0])
    old_file(tmp_path / "decisions", 0, bytes(32), [good, unknown, good])
    log, store = opened(tmp_path), Upgraded(0)
    ship(log, store)
    assert [one.sequence for one in store.records] == [1, 2, 3]
    assert store.gaps() == [(2, 2)]
    assert log.dropped == 1
    assert (tmp_path / "decisions" / "refused.jsonl").read_bytes() == unknown + b"\n"
    assert "record 2 of the decision log cannot be converted" in caplog.text


def test_a_log_of_the_earlier_version_is_verified_as_it_is(tmp_path: Path) -> None:
    """Before the upgrade, an edit is found with its place, and records are shown."""
    folder = copied(tmp_path)
    assert verify(folder) == (["13 to 15 were dropped", f"{len(RECORDS)} records, all as they were written"], True)
    assert [json.loads(line) for line in records(folder)] == [
        {"sequence": old.sequence, **one} for one, old in zip(DOCUMENTS, RECORDS, strict=True)
    ]
    path = paths(tmp_path)[1]
    path.write_bytes(path.read_bytes().replace(b'"agent_id":"billing', b'"agent_id":"filling', 1))
    assert verify(folder).lines[0] == f"`{path.name}`: what follows record 8 is not what was written"
    paths(tmp_path)[2].unlink()
    assert not verify(folder).whole
