"""Memory that workers share (CONTRACT §15 `--workers`)."""

from __future__ import annotations

import os

import pytest

from proxy.net.board import _SLOT, Board


def test_the_last_data_of_each_worker_is_read() -> None:
    board = Board(2)
    assert (board.read(0), board.read(1)) == (None, None)
    for number in range(5):
        board.write(1, b"data %d" % number)
    assert (board.read(0), board.read(1)) == (None, b"data 4")
    board.write(1, b"")
    assert board.read(1) == b""


def test_a_write_that_did_not_finish_leaves_the_data_before_it() -> None:
    board = Board(1)
    board.write(0, b"first")
    board.write(0, b"second")
    for start in (0, _SLOT):  # whichever slot is the newer one
        torn = Board(1)
        torn._places[0][:] = board._places[0][:]
        torn._places[0][start + 16] ^= 1
        assert torn.read(0) in (b"first", b"second")
    newest = 0 if board._slots(0)[0][1] == b"second" else _SLOT
    board._places[0][newest + 16] ^= 1
    assert board.read(0) == b"first"
    board.write(0, b"third")
    assert board.read(0) == b"third"


def test_too_much_data_is_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Board(1).write(0, b"x" * (_SLOT + 1))


def test_the_data_of_a_process_that_has_ended_stays() -> None:
    board = Board(1)
    child = os.fork()
    if not child:
        board.write(0, b"counted")
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert board.read(0) == b"counted"
