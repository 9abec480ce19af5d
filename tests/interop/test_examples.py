"""The files below examples/: the documentation shows their text, and what can run here is run.

docs/clients.md shows the scripts too; test_clients.py runs them.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from tests.interop.test_clients import (
    Scene,
    assert_is_the_export,
    scene,  # noqa: F401  # fixtures
    stand_in,  # noqa: F401
)
from tests.support.programs import run

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
#: Examples that the documentation does not show, but links.
LINKED = ("compose", "traefik")
DOCUMENTED = sorted(
    path
    for path in EXAMPLES.rglob("*")
    if path.suffix in (".py", ".yml") and path.parent.name not in ("__pycache__", *LINKED)
)
#: Files of services, and the names of their schemas in check-jsonschema.
CHECKED = {
    "github-actions/export.yml": "vendor.github-workflows",
    "gitlab/.gitlab-ci.yml": "vendor.gitlab-ci",
    "azure-devops/azure-pipelines.yml": "vendor.azure-pipelines",
    "traefik/compose.labels.yml": "vendor.compose-spec",
}


@pytest.mark.parametrize("path", DOCUMENTED, ids=lambda path: path.name)
def test_the_documentation_shows_the_file(path: Path) -> None:
    shown = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    assert f"```\n{path.read_text(encoding='utf-8')}```\n" in shown.replace(
        "```python\n", "```\n"
    ).replace("```yaml\n", "```\n")


def test_the_documentation_shows_the_curl_script() -> None:
    """In two blocks: the second one verifies the digest."""
    shown = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    script = (EXAMPLES / "curl" / "export.sh").read_text(encoding="utf-8")
    *export, verification = script.splitlines(keepends=True)
    assert f"```bash\n{''.join(export)}```\n" in shown
    assert f"```bash\n{verification}```\n" in shown


def test_every_example_is_linked_in_the_documentation() -> None:
    linked = {
        (page.parent / link).resolve()
        for page in (ROOT / "docs").glob("*.md")
        for link in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8"))
    }
    files = {path for path in EXAMPLES.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    in_python = {path for path in files if path.suffix == ".py"}  # docs/clients.md shows them whole
    parts = set((EXAMPLES / "power-automate" / "Microsoft.Flow").rglob("*.json"))
    assert files - in_python - parts - linked == set()


def test_the_configuration_of_iis_is_well_formed() -> None:
    """IIS cannot run here. A rule forwards every path as it was sent."""
    document = ET.parse(EXAMPLES / "iis" / "web.config")
    (rewrite,) = document.iter("action")
    assert rewrite.attrib["url"].endswith("{UNENCODED_URL}")
    assert {each.attrib["name"] for each in document.iter("set")} == {
        *("HTTP_X_FORWARDED_PROTO", "HTTP_X_FORWARDED_HOST", "HTTP_FORWARDED")
    }


@pytest.mark.parametrize(("name", "schema"), CHECKED.items())
async def test_the_schema_of_the_service_accepts_the_file(name: str, schema: str) -> None:
    transform = ("--data-transform", "azure-pipelines") if "azure" in schema else ()
    await run("check-jsonschema", "--builtin-schema", schema, *transform, str(EXAMPLES / name))


async def test_the_playbook_exports_and_verifies(
    scene: Scene,  # noqa: F811
    tmp_path: Path,
) -> None:
    playbook = tmp_path / "export.yml"
    playbook.write_bytes((EXAMPLES / "ansible" / "export.yml").read_bytes())
    environment = {
        **scene.environment(tmp_path),
        "LC_ALL": "C.UTF-8",
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
    }
    output = await run("ansible-playbook", str(playbook), cwd=tmp_path, env=environment)
    assert "failed=0" in output
    assert scene.token not in output
    assert_is_the_export((tmp_path / "mailbox.pst").read_bytes())
    assert (tmp_path / "mailbox.pst").stat().st_mode & 0o777 == 0o600


def test_the_steps_of_the_logic_app_fit_together() -> None:
    """Logic Apps cannot run here: every step that is waited for exists beside its follower, and no
    request with a password or a token is in the run history.
    """
    template = json.loads((EXAMPLES / "logic-app" / "template.json").read_text(encoding="utf-8"))
    (workflow,) = template["resources"]
    definition = workflow["properties"]["definition"]
    assert definition["parameters"].keys() == workflow["properties"]["parameters"].keys()

    def check(actions: dict[str, Any]) -> None:
        for action in actions.values():
            assert action.get("runAfter", {}).keys() <= actions.keys()
            if action["type"] == "Http":
                assert "inputs" in action["runtimeConfiguration"]["secureData"]["properties"]
            check(action.get("actions", {}))
            check(action.get("else", {}).get("actions", {}))

    check(definition["actions"])


def test_the_flow_is_the_logic_app_with_inputs_of_its_own() -> None:
    """Power Automate cannot run here: its actions are those of the Logic App, its package has the
    files that it names, and the run history hides the password.
    """
    package = EXAMPLES / "power-automate"
    flows = package / "Microsoft.Flow" / "flows"
    (flow,) = json.loads((package / "manifest.json").read_text())["resources"].values()
    assert flow["type"] == "Microsoft.Flow/flows"
    (asset,) = json.loads((flows / "manifest.json").read_text())["flowAssets"]["assetPaths"]
    assert {path.name for path in (flows / asset).iterdir()} == {
        *("apisMap.json", "connectionsMap.json", "definition.json")
    }
    definition = json.loads((flows / asset / "definition.json").read_text(encoding="utf-8"))
    found = definition["properties"]["definition"]
    trigger = found["triggers"]["manual"]
    assert "outputs" in trigger["runtimeConfiguration"]["secureData"]["properties"]
    fields = trigger["inputs"]["schema"]["properties"]
    names = ("server", "export", "userName", "password")
    (workflow,) = json.loads((EXAMPLES / "logic-app" / "template.json").read_text())["resources"]
    actions = json.dumps(workflow["properties"]["definition"]["actions"])
    for parameter, field in zip(names, fields, strict=True):
        actions = actions.replace(f"parameters('{parameter}')", f"triggerBody()?['{field}']")
    assert "parameters('" not in actions
    assert found["actions"] == json.loads(actions)
