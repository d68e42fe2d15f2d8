"""What one reads on an executed page, and what a browser sees of it."""

import base64
import hashlib
import html
import json
import re
from pathlib import Path
from typing import Any


def formulas_left(page: str) -> list[str]:
    """Formulas that stand in a page's visible text as they were typed, between dollars."""
    text = re.sub(r"<(style|script|code|pre|title)\b.*?</\1>", " ", page, flags=re.S)
    return re.findall(r"\$\$.+?\$\$|\$(?=\S)[^$]+(?<=\S)\$", re.sub(r"<[^>]*>", " ", text), re.S)


def probed(page: Path, probe: str) -> Path:
    """A copy of the page with a script that reads it. The page's policy admits that script and no other."""
    digest = base64.b64encode(hashlib.sha256(probe.encode()).digest()).decode()
    text = page.read_text().replace("script-src ", f"script-src 'sha256-{digest}' ", 1)
    copy = page.with_name("probed.html")
    copy.write_text(text.replace("</body>", f"<script>{probe}</script></body>"))
    return copy


def body_of(page: str) -> Any:
    """What a probe has written in place of the page, as JSON."""
    return json.loads(html.unescape(re.search(r"<body>(.*)</body>", page, re.S)[1]))


# Of a deck of slides: which of them do not fit, and what keys do.
CUT_OFF = """
const violations = []; document.addEventListener("securitypolicyviolation", event => violations.push(event.blockedURI));
const seen = { slides: slides.length, cut: [], pages: [], notes: [], violations };
slides.forEach((slide, place) => {
  slides.forEach(other => other.classList.toggle("shown", other === slide));
  fit(slide);
  const body = slide.querySelector(".body"), box = slide.getBoundingClientRect();
  const fits = body.scrollHeight <= body.clientHeight && body.scrollWidth <= body.clientWidth;
  if (!fits || box.width !== innerWidth || box.height !== innerHeight) seen.cut.push(place + 1);
});
const press = key => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
location.hash = 1;
for (const key of ["ArrowRight", "PageDown", "ArrowLeft", "End", " ", "Home", "ArrowUp"]) {
  press(key);
  seen.pages.push(location.hash);
}
for (const key of ["x", "n", "N"]) {
  press(key);
  seen.notes.push(document.querySelector("aside").hidden);
}
document.body.innerHTML = ""; document.body.append(JSON.stringify(seen));
"""
