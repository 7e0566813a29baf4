"What a finished site is held to: it asks no other machine for anything, and its own links hold."

import os
import re
from functools import cache
from html import unescape
from pathlib import Path
from urllib.parse import unquote, urlsplit

REMOTE_TAG = re.compile(
    r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*?\s(?:src|href|srcset|data)=[\"']?(?:https?:)?//[^\s>]*",
    re.I,
)
REMOTE_STYLE = re.compile(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import\s+(?:url\()?[\"']?(?:https?:)?//\S*", re.I)
REMOTE_DRAWING = re.compile(r"href=[\"']https?://[^\"']*", re.I)
TAG = re.compile(r"""<[a-z](?:[^<>"']|"[^"]*"|'[^']*')*>""", re.I)
ATTRIBUTE = re.compile(r"""\s([^\s=>"'/]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>]+))""")
NO_TAGS = re.compile(r"<!--.*?-->|(<script\b[^>]*>).*?(</script>)", re.S | re.I)


class Page:
    "The links and anchors of one page (read by expressions: a parser of HTML takes many times as long)."

    def __init__(self, path):
        tags = TAG.findall(NO_TAGS.sub(r"\1\2", path.read_text(encoding="utf-8")))
        found = [(key.lower(), unescape("".join(value))) for tag in tags for key, *value in ATTRIBUTE.findall(tag)]
        self.links = [value for key, value in found if key in {"href", "src"} and value]
        self.anchors = {"", "top"} | {value for key, value in found if key in {"id", "name"}}


def remote(site):
    "Everything that a page, style or drawing would fetch from elsewhere: 'file: what'. Empty is right."
    patterns = {".html": [REMOTE_TAG, REMOTE_STYLE], ".css": [REMOTE_STYLE], ".svg": [REMOTE_STYLE, REMOTE_DRAWING]}
    found = []
    for path in sorted(p for p in Path(site).rglob("*") if p.suffix in patterns):
        text = path.read_text(encoding="utf-8")
        found += [f"{path.relative_to(site)}: {match[0]}" for p in patterns[path.suffix] for match in p.finditer(text)]
    return found


def broken(site):
    "Links of the site's pages to files or anchors that are not there: 'page: link'. Empty is right."
    files = {path.relative_to(site).as_posix() for path in Path(site).rglob("*") if path.is_file()}
    pages = {
        name: Page(Path(site, name)) for name in files if name.endswith(".html") and not name.startswith("_static/")
    }

    @cache  # most links of a page are those of the sidebar, which all pages of its folder have
    def holds(folder, link):
        parts = urlsplit(link)
        target = os.path.normpath(os.path.join(folder, unquote(parts.path)))
        leads = target in files and (target not in pages or unquote(parts.fragment) in pages[target].anchors)
        return bool(parts.scheme or parts.netloc or leads)

    found = []
    for name, page in sorted(pages.items()):
        folder, own = os.path.split(name)
        found += [
            f"{name}: {link}"
            for link in page.links
            if not holds(folder, own + link if link.startswith(("#", "?")) else link)
        ]
    return found
