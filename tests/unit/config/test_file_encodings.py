"""Files in other encodings than UTF-8, and errors in TOML: read, or reported with the fix."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.config import load
from tests.support.commands import PYTHON, finished
from tests.unit.config.values import KEY, NEWER_KEY, URL, Written, problem_with, problems_of


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_files_of_windows_programs_are_read(mark: bytes, tmp_path: Path) -> None:
    """Notepad and Windows PowerShell begin UTF-8 with a byte order mark and end lines with CR
    LF.
    """
    (tmp_path / "proxy.toml").write_bytes(
        mark + f'[upstream]\r\nurl = "{URL}"\r\n[storage]\r\ndir = "Zürich"\r\n'.encode()
    )
    (tmp_path / "VB365_PROXY_ADMIN__TOKEN").write_bytes(mark + b"secret\r\n")
    (tmp_path / "keys").write_bytes(mark + f"{NEWER_KEY}\r\n{KEY}\r\n".encode())
    environ = {
        "VB365_PROXY_SECRETS_DIR": str(tmp_path),
        "VB365_PROXY_SECRETS__KEY_FILE": str(tmp_path / "keys"),
    }
    settings = load(tmp_path / "proxy.toml", {}, environ)
    assert settings.storage.dir == Path("Zürich")
    assert settings.admin.token is not None
    assert settings.admin.token.get_secret_value() == "secret"
    assert [key.get_secret_value() for key in settings.secrets.keys] == [NEWER_KEY, KEY]


def test_utf_8_is_read_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "proxy.toml").write_bytes(
        f'[upstream]\nurl = "{URL}"\n[storage]\ndir = "Zürich"\n'.encode()
    )
    code = "import sys; from pathlib import Path; from proxy.config import load;"
    code += "print(ascii(str(load(Path(sys.argv[1]), {}, {}).storage.dir)))"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    file = str(tmp_path / "proxy.toml")
    done = finished("-c", code, file, program=PYTHON, env=environment, check=True)
    assert done.stdout == "'Z\\xfcrich'\n"


def test_a_pem_file_in_utf_16_is_named(pems: Path, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text(
        (pems / "ca.pem").read_text(encoding="ascii"), encoding="utf-16"
    )
    problem = problem_with("upstream.ca_file", str(tmp_path / "ca.pem"))
    assert "ca.pem is UTF-16: save it as UTF-8" in problem.problem


def test_utf_16_is_named_in_every_file(tmp_path: Path) -> None:
    """Windows PowerShell's `>` writes UTF-16."""
    for name, content in (
        ("proxy.toml", "[upstream]"),
        ("VB365_PROXY_ADMIN__TOKEN", "secret"),
        ("keys", KEY),
    ):
        (tmp_path / name).write_text(content, encoding="utf-16")
    environ = {
        "VB365_PROXY_SECRETS_DIR": str(tmp_path),
        "VB365_PROXY_SECRETS__KEY_FILE": str(tmp_path / "keys"),
    }
    problems = problems_of({"upstream.url": URL}, environ, tmp_path / "proxy.toml")
    assert len(problems) == 3
    assert {problem.hint for problem in problems} == {"Save it as UTF-8."}
    assert all("is UTF-16" in problem.problem for problem in problems)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        (r'dir = "C:\data"', "Write a Windows path in 'single quotes' or with forward slashes"),
        (
            r'dir = "C:\Users\backup"',
            "Write a Windows path in 'single quotes' or with forward slashes",
        ),
        (r'dir = "C:\new"', "Write a Windows path in 'single quotes' or with forward slashes"),
        (r"dir = C:\data", "Write a Windows path in 'single quotes' or with forward slashes"),
        ("dir = C:/data", "Write text in straight quotes"),
        ("dir = \u201c/data\u201d", "Write text in straight quotes"),
        ("\xa0dir = '/data'", r"Line 3 contains \xa0: type that line again."),
        ("dir = '/da\x00ta'", r"Line 3 contains \x00: type that line again."),
        ("= = =", "See `vb365-async-proxy config init` for an example."),
    ],
)
def test_an_error_in_a_toml_file_is_reported_with_its_fix(
    line: str, hint: str, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.toml"
    path.write_text(f"\n[storage]\n{line}\n", encoding="utf-8")
    (problem,) = problems_of({"upstream.url": URL}, {}, path)
    assert problem.hint.startswith(hint)


def test_a_windows_path_in_single_quotes_is_taken_as_it_is(written: Written) -> None:
    assert load(
        written(r"storage = {dir = 'C:\new'}"), {"upstream.url": URL}, {}
    ).storage.dir == Path(r"C:\new")
