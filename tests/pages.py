"""What one reads on an executed page."""

import re


def formulas_left(page: str) -> list[str]:
    """Formulas that stand in a page's visible text as they were typed, between dollars."""
    text = re.sub(r"<(style|script|code|pre|title)\b.*?</\1>", " ", page, flags=re.S)
    return re.findall(r"\$\$.+?\$\$|\$(?=\S)[^$]+(?<=\S)\$", re.sub(r"<[^>]*>", " ", text), re.S)
