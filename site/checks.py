"What a finished site is held to: it asks no other machine for anything, and its own links hold."
import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

REMOTE_TAG = re.compile(r"<(?:script|link|img|iframe|source|video|audio|object|embed)\b[^>]*?\s(?:src|href|srcset|data)=[\"']?(?:https?:)?//[^\s>]*", re.I)
REMOTE_STYLE = re.compile(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import\s+(?:url\()?[\"']?(?:https?:)?//\S*", re.I)
REMOTE_DRAWING = re.compile(r"(?:xlink:)?href=[\"']https?://[^\"']*", re.I)


class Page(HTMLParser):
    "The links and anchors of one page."

    def __init__(self, path):
        super().__init__()
        self.links, self.anchors = [], {"", "top"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.anchors |= {attrs[key] for key in ("id", "name") if attrs.get(key)}
        self.links += [attrs[key] for key in ("href", "src") if attrs.get(key)]


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
    site = Path(site).resolve()
    pages = {path: Page(path) for path in site.rglob("*.html") if "_static" not in path.relative_to(site).parts}
    found = []
    for path, page in sorted(pages.items()):
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            holds = target.is_file() and target.is_relative_to(site)
            if holds and target in pages:
                holds = unquote(parts.fragment) in pages[target].anchors
            found += [] if holds else [f"{path.relative_to(site)}: {link}"]
    return found
