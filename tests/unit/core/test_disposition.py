"""CONTRACT §6: file names in `Content-Disposition` (RFC 6266, RFC 8187)."""

from __future__ import annotations

import re
import unicodedata
from email.message import Message
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.core.http.disposition import MAX_NAME, content_disposition, file_name, safe_name


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"attachment; filename=mail.pst", "mail.pst"),
        (b'attachment; filename="mail.pst"', "mail.pst"),
        (b'ATTACHMENT;FILENAME = "mail.pst" ; size=3', "mail.pst"),
        (b'attachment; filename="a; b, c.pst"', "a; b, c.pst"),
        (b'attachment; filename="a\\"b\\\\c.pst"', "c.pst"),
        (b'attachment; filename="m\\ail.pst"', "mail.pst"),
        # Windows paths as servers write them: unescaped, escaped, and in a token
        (b'attachment; filename="C:\\Windows\\Temp\\x\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="C:\\Temp\\a b; c.pst"; size=3', "a b; c.pst"),
        (b'attachment; filename="C:\\\\Windows\\\\Temp\\\\mailbox.pst"', "mailbox.pst"),
        (b"attachment; filename=C:\\Windows\\Temp\\mailbox.pst", "mailbox.pst"),
        (b'attachment; filename="C:\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="c:/Temp/mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="D:\\n\\t\\new.pst"', "new.pst"),
        (b'attachment; filename="\\\\server\\share\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="\\\\\\\\server\\\\share\\\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="\\\\?\\C:\\Temp\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="..\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="%TEMP%\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="\\Temp\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="Temp\\REST_EXPORT_1\\mailbox.pst"', "mailbox.pst"),
        (b'attachment; filename="C:\\Temp\\\xfcber.pst"', "\u00fcber.pst"),
        (
            b"attachment; filename=\"C:\\Temp\\x.pst\"; filename*=UTF-8''C%3A%5CTemp%5C%C3%BC.pst",
            "\u00fc.pst",
        ),
        # no paths: the escapes of RFC 9110
        (b'attachment; filename="f\\oo.html"', "foo.html"),
        (b'attachment; filename="\\"a\\" and \\"b\\".pst"', "_a_ and _b_.pst"),
        (b'attachment; filename="\\"C\\".pst"', "_C_.pst"),
        (b"attachment; filename=my mail.pst; x=y", "my mail.pst"),
        (b'attachment; filename="never closed.pst', "never closed.pst"),
        (b"filename=mail.pst", "mail.pst"),
        (b"attachment; filename=first.pst; filename=second.pst", "first.pst"),
        (b"attachment; filename=a.pst; filename*=UTF-8''%c3%bcber%20all.pst", "\u00fcber all.pst"),
        (b"attachment; filename*=utf-8'de'%C3%BC.pst; filename=a.pst", "\u00fc.pst"),
        (b"attachment; filename*=ISO-8859-1''%FC.pst; filename=a.pst", "\u00fc.pst"),
        (b"attachment; filename*=\"UTF-8''%C3%BC.pst\"", "\u00fc.pst"),
        (b"attachment; filename*=UTF-8''%FF.pst; filename=a.pst", "a.pst"),
        (b"attachment; filename*=UTF-16''%FF; filename=a.pst", "a.pst"),
        (b"attachment; filename*=UTF-8''%C3%B; filename=a.pst", "a.pst"),
        (b"attachment; filename*=nonsense; filename=a.pst", "a.pst"),
        (b"attachment; filename*=UTF-8''..%2F..; filename=a.pst", "a.pst"),
        (b"attachment; filename*=UTF-8''..%2f..%2fetc%2fpasswd", "passwd"),
        ('attachment; filename="\u00fcber.pst"'.encode(), "\u00fcber.pst"),
        ('attachment; filename="\u00fcber.pst"'.encode("latin-1"), "\u00fcber.pst"),
        (b'attachment; filename="=?utf-8?B?w7xiZXIucHN0?="', "\u00fcber.pst"),
        (b'attachment; filename="=?UTF-8?q?=C3=BCb_er.pst?="', "\u00fcb er.pst"),
        (b'attachment; filename="=?iso-8859-1?Q?=FC?= =?utf-8?B?w7w=?=.pst"', "\u00fc\u00fc.pst"),
        (b'attachment; filename="=?utf-8?B?!?=.pst"', "=_utf-8_B_!_=.pst"),
        (b'attachment; filename="=?utf-8?Q?=FF?=.pst"', "=_utf-8_Q_=FF_=.pst"),
        (b'attachment; filename="100%25.pst"', "100%25.pst"),
    ],
)
def test_the_file_name_of_vb365_is_read(value: bytes, name: str) -> None:
    """RFC 6266 §4.3: filename* preferred, then filename; what servers send beside the standard is
    understood too.
    """
    assert file_name(value) == name


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"attachment",
        b"attachment; filename",
        b"attachment; filename=",
        b'attachment; filename=""',
        b"attachment; filename=..",
        b"attachment; filename=dir/",
        b'attachment; filename=" . "',
        b'attachment; filename="\x01\x7f"',
        b"attachment; filename*=UTF-8''",
        b"attachment; x=y",
        b"=;=;\\",
        b'attachment; filename="C:\\Temp\\"',
        b'attachment; filename="C:\\"',
        b'"',
    ],
)
def test_there_is_no_name_if_none_is_usable(value: bytes | None) -> None:
    assert file_name(value) is None


@pytest.mark.parametrize(
    ("unsafe", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("..\\..\\x.pst", "x.pst"),
        ("C:\\temp\\x.pst", "x.pst"),
        ("C:x.pst", "C_x.pst"),
        ("x.pst:stream", "x.pst_stream"),
        (".bashrc", "bashrc"),
        ("... x.pst. .", "x.pst"),
        ('a<b>c"d|e?f*g', "a_b_c_d_e_f_g"),
        ("a\r\nb\x00\x7f\x85.pst", "ab.pst"),
        ("mail\u202etsp.exe", "mailtsp.exe"),
        ("\u200b\u2066a\u2069\ufeff\u2028.pst", "a.pst"),
        ("\ud800x.pst", "x.pst"),
        ("CON", "_CON"),
        ("con.pst", "_con.pst"),
        ("nul .txt", "_nul .txt"),
        ("con" + " " * 300 + ".txt", "_con.txt"),
        ("Com1.tar.gz", "_Com1.tar.gz"),
        ("lpt\u00b9", "_lpt\u00b9"),
        ("CONIN$", "_CONIN$"),
        ("console.txt", "console.txt"),
        ("com10", "com10"),
        ("\u65e5\u672c\u8a9e.pst", "\u65e5\u672c\u8a9e.pst"),
        ("a" * 300 + ".pst", "a" * 196 + ".pst"),
        ("\u65e5" * 100 + ".pst", "\u65e5" * 65 + ".pst"),
        ("a" * 300, "a" * 200),
        ("x." + "b" * 300, "x." + "b" * 198),
        ("a" * 190 + " . . . . . . . .pst", "a" * 190 + ".pst"),
        ("a .pst", "a .pst"),
    ],
)
def test_names_are_made_safe(unsafe: str, safe: str) -> None:
    """§6: no path, nothing invisible, nothing a file system refuses, at most 200 bytes with the
    extension kept.
    """
    assert safe_name(unsafe) == safe


HOSTILE = st.text(max_size=300) | st.text(
    './\\ :"%con\u202e\uff0f\uff0e\ud800\u00e9\u65e5=?utf8BQ', max_size=300
)


@given(HOSTILE)
def test_every_name_is_safe_and_stable(unsafe: str) -> None:
    """§6, and it does not change again."""
    name = safe_name(unsafe)
    if not name:
        return
    assert len(name.encode()) <= MAX_NAME
    assert not set(name) & set('/\\:*?"<>|')
    assert not any(unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in name)
    assert name[0] not in ". "
    assert name[-1] not in ". "
    assert not re.match(r"(?i)(?:con|prn|aux|nul|com\d|lpt\d) *(?:\.|$)", name)
    assert safe_name(name) == name


@given(
    st.binary(max_size=100)
    | HOSTILE.map(lambda text: f'attachment; filename="{text}"'.encode(errors="surrogatepass"))
)
def test_no_field_value_is_an_error(value: bytes) -> None:
    assert file_name(value) != ""


@given(HOSTILE)
def test_the_name_round_trips_to_the_client(unsafe: str) -> None:
    """§6 RFC 6266 `filename` + `filename*`: ASCII only; read back by us and by the standard
    library.
    """
    name = safe_name(unsafe) or "export"
    value = content_disposition(name)
    found = re.fullmatch(
        (
            r"attachment; filename=\"([ !#$&-.0-\[\]-~]+)\"; "
            r"filename\*=UTF-8''([!#$&+.^_`|~0-9A-Za-z%-]+)"
        ),
        value,
    )
    assert found is not None
    assert unquote(found[2]) == name
    assert file_name(value.encode()) == name
    assert safe_name(found[1]) == found[1]
    message = Message()
    message["Content-Disposition"] = value
    assert message.get_filename() == found[1]


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("mail.pst", "mail.pst"),
        ("\u00fcber \u00e9t\u00e9.pst", "uber ete.pst"),
        ("\u65e5\u672c.pst", "__.pst"),
        ("100%.pst", "100_.pst"),
        ("a\uff0fb\uff0e\uff0e.pst", "a_b...pst"),
        ("\uff0e\uff0e", "export"),
        ("\uff23\uff2f\uff2e", "_CON"),
    ],
)
def test_the_ascii_approximation_is_safe(name: str, plain: str) -> None:
    """RFC 6266 Appendix D: compatibility forms of dots and slashes do not become paths."""
    assert f'filename="{plain}";' in content_disposition(name)


@pytest.mark.parametrize(
    "unit", [b'"', b"\\", b";", b"=?", b"=?utf-8?B?", b"%", b" ", b"filename=", b"=?utf-8?q?a?= "]
)
def test_parsing_time_is_linear(unit: bytes) -> None:
    """A parser that backtracks would not return from this. The time-out of the suite is the
    judge.
    """
    for value in (
        unit * 20_000,
        b'a; filename="' + unit * 20_000,
        b"a; filename*=UTF-8''" + unit * 20_000 + b"\x00",
    ):
        assert len((file_name(value) or "").encode()) <= MAX_NAME
