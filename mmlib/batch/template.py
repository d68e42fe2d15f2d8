"""Pages from templates that need no network and execute one script, their own."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

_TEMPLATES = Path(__file__).with_name("templates")


def filled(name: str, **content: Any) -> str:
    """The template of this name with its style and script. What comes from `content` is escaped, unless the template
    says that it is safe."""
    style, script = ((_TEMPLATES / f"{name}.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template(f"{name}.html.jinja")
    return template.render(style=style, script=script, script_digest=digest, **content)


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
