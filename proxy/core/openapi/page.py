"""The OpenAPI document as a page for people, without scripts."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from html import escape
from string import Template

from proxy.core.errors import KINDS
from proxy.core.openapi.schemas import Object

_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 62rem; margin: 0 auto; padding: 1.5rem; font: 1rem/1.5 system-ui, sans-serif; }
h1, h2 { line-height: 1.2; }
h2 { margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; display: block; overflow-x: auto; }
th, td { padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; vertical-align: top; }
tr { border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent); }
code, pre { font: 0.87rem/1.5 ui-monospace, Consolas, monospace; overflow-wrap: anywhere; }
pre { padding: 0.8rem; overflow-x: auto; white-space: pre; border-radius: 0.4rem; }
pre { background: color-mix(in srgb, currentColor 8%, transparent); }
"""

#: For the field Content-Security-Policy of the page: nothing but its own style sheet.
POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{b64encode(sha256(_STYLE.encode()).digest()).decode()}'"
)

_PAGE = Template("""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title $version</title>
<style>$style</style>
</head>
<body>
<main>
<h1>$title $version</h1>
$introduction
<p>For generators of clients: <a href="openapi.json">openapi.json</a> (OpenAPI $openapi).</p>
<h2>An export with curl</h2>
<pre>$curl</pre>
$operations
<h2>Errors</h2>
<p>An error of the proxy is <code>application/problem+json</code> (RFC 9457) with the field
<code>X-VB365-Async: proxy</code>. All other errors are those of VB365.</p>
<table>
<thead><tr><th scope="col">Status</th><th scope="col">type</th>
<th scope="col">Meaning</th></tr></thead>
<tbody>
$errors
</tbody>
</table>
</main>
</body>
</html>
""")

_CURL = """\
job=$(curl -sS -f -o /dev/null -w '%header{location}' "$VB365_URL$EXPORT" \\
  -H "Authorization: Bearer $VB365_TOKEN" -H 'Prefer: respond-async' \\
  -H 'Content-Type: application/json' -d '{}')
curl -sS -H "Authorization: Bearer $VB365_TOKEN" "$job"
curl -f -OJ -H "Authorization: Bearer $VB365_TOKEN" "$job/result"
"""


def page(document: Object) -> bytes:
    """The page that shows `document`, as HTML in UTF-8. Its URL is that of the directory of the
    document.
    """
    info = document["info"]
    shown = _PAGE.substitute(
        title=escape(info["title"]),
        version=escape(info["version"]),
        openapi=document["openapi"],
        style=_STYLE,
        introduction="\n".join(_paragraph(part) for part in info["description"].split("\n\n")),
        curl=escape(_CURL),
        operations="\n".join(_section(tag, document["paths"]) for tag in document["tags"]),
        errors="\n".join(
            _row(str(kind.status), _code(kind.name), escape(kind.title)) for kind in KINDS.values()
        ),
    )
    return shown.encode()


def _section(tag: Object, paths: Object) -> str:
    rows = [
        _row(_code(method.upper()), _code(path), escape(item[method]["summary"]))
        for path, item in paths.items()
        for method in ("get", "post", "delete")
        if tag["name"] in item.get(method, {}).get("tags", ())
    ]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Method", "Path", "Operation"))
    return (
        f"<h2>{escape(tag['name'])}</h2>\n<p>{escape(tag['description'])}</p>\n"
        f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>\n"
        "</table>"
    )


def _row(*cells: str) -> str:
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def _paragraph(text: str) -> str:
    parts = escape(text).split("`")
    marked = [f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts)]
    return f"<p>{''.join(marked)}</p>"
