"""The files in config/windows, which cannot be run here: WinSW's documented elements, and the
grammar of PowerShell.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import tree_sitter_powershell
from tree_sitter import Language, Parser

from proxy.app import DRAIN_TIMEOUT

PLACE = Path(__file__).parents[3] / "config" / "windows"
#: The elements of WinSW 2 (its documentation of the XML file) that a service may have.
ELEMENTS = {
    *("id", "name", "description", "executable", "arguments", "workingdirectory", "env"),
    *("serviceaccount", "startmode", "delayedAutoStart", "stoptimeout", "onfailure"),
    *("resetfailure", "logpath", "log"),
}


def test_the_service_has_only_elements_that_winsw_documents() -> None:
    root = ET.parse(PLACE / "vb365-async-proxy.xml").getroot()
    assert root.tag == "service"
    assert {each.tag for each in root} == ELEMENTS
    assert (root.findtext("id") or "").isalnum()
    assert root.findtext("startmode") == "Automatic"
    log = root.find("log")
    assert log is not None
    assert log.get("mode") == "roll-by-size"
    assert [(each.tag, (each.text or "").isdigit()) for each in log] == [
        ("sizeThreshold", True),
        ("keepFiles", True),
    ]
    assert {each.get("action") for each in root.findall("onfailure")} == {"restart"}
    for each in root.findall("onfailure"):
        number, unit = (each.get("delay") or "").split()
        assert number.isdigit()
        assert unit in {"sec", "secs", "min", "mins", "hour", "hours", "day", "days"}


def test_the_service_has_more_time_to_stop_than_the_proxy_needs() -> None:
    root = ET.parse(PLACE / "vb365-async-proxy.xml").getroot()
    seconds, unit = (root.findtext("stoptimeout") or "").split()
    assert unit == "sec"
    assert int(seconds) > DRAIN_TIMEOUT


def test_the_script_gives_rights_to_the_account_of_the_service() -> None:
    root = ET.parse(PLACE / "vb365-async-proxy.xml").getroot()
    script = (PLACE / "install.ps1").read_bytes()
    assert not Parser(Language(tree_sitter_powershell.language())).parse(script).root_node.has_error
    domain, user = root.findtext("serviceaccount/domain"), root.findtext("serviceaccount/user")
    assert (domain, user) == ("NT SERVICE", root.findtext("id"))
    assert f"$account = '{domain}\\{user}'".encode() in script
    assert b"New-NetFirewallRule" in script
