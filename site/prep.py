"""From a notebook to a page of the site: nbdev's directives become cell tags, hidden cells go, links are turned.

A page knows where its notebook stands in the repository; a link that holds there is turned into one that holds in the
site: to the page made from the file it names, or to a copy of that file.
"""

import csv
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)\s*:?\s*(.*)$")
LINK = re.compile(r"(\]\(|(?:src|href)=\")(?![a-z]+:|#|/)([^)\"\s#]+)(#[^)\"\s]*)?")
EXPORTED = re.compile(r"^(?:async def|def|class)\s+(\w+)|^(\w+)\s*(?::[^=]+)?=(?!=)", re.M)
SAVED = re.compile(r"\bfigures\.save\(\w+, f?\"([^\"]+)\"")
BRACED = re.compile(r"\{[^}]*\}")
FIGURE = re.compile(r"\[(\w+)\]\((\S+)\.ipynb\), \[data\]\((\S+/figures/(\w+)\.csv)\)")
MOST_WORDS = 60  # of a figure's description
LONG = 25  # lines of code that are folded on an experiment's page
INTERVAL = re.compile(r"(\[[−+]?[\d.]+%?,) (?=[−+]?[\d.]+%?\])")
HEADING = re.compile(r"[^<>]*(?=</th>)")  # of a table
IN_THE_DARK = """<style>@media (prefers-color-scheme: dark) {
[style*="fill: #ffffff"] { fill: #131416 !important }
[style*="fill: #767676"] { fill: #a3a3a3 !important }
[style*="stroke: #767676"] { stroke: #a3a3a3 !important }
}</style>"""


@dataclass(frozen=True)
class Page:
    "One notebook and its place in the site."

    name: str  # without suffix: "experiments/03_multiplication"
    shown: Path  # the notebook that is shown, executed where there is one
    origin: Path  # the clean notebook it was made from
    kind: str  # "paper" | "experiment" | "library" | "howto" | "readme"
    note: str = ""  # where its numbers come from


class Links:
    "Turns links; remembers the files that the pages need beside them."

    def __init__(self, root, places):
        self.root, self.places, self.files = root, places, set()  # places: {file or folder: page name}

    def target(self, path):
        "Where a file of the repository is found in the site's source, or None where there is no such thing."
        if path in self.places:
            return f"{self.places[path]}"
        if path.is_file() and path.is_relative_to(self.root):
            self.files.add(path)
            return f"files/{copy_name(path.relative_to(self.root))}"
        return None

    def turn(self, text, origin, page):
        "`text` of a file that stands at `origin`, for the page `page`."

        def one(match):
            target = self.target(Path(os.path.normpath(origin.parent / match[2])))
            if target is None:
                return match[0]  # Sphinx refuses it, with the page's name
            if match[1].startswith(("src", "href")):
                target = re.sub(r"\.(ipynb|md)$", ".html", target) if not target.startswith("files/") else target
            return match[1] + os.path.relpath(target, Path(page).parent) + (match[3] or "")

        return LINK.sub(one, text)


def copy_name(path):
    "The name of a file's copy in the site; text that Sphinx would take for a page gets another ending."
    return f"{path}.txt" if path.suffix in {".md", ".ipynb"} else str(path)


def joined(text):
    "Notebook text is a string or a list of lines."
    return text if isinstance(text, str) else "".join(text)


def split(source):
    "Code without its directives, and the directives."
    found = [(line, DIRECTIVE.match(line)) for line in source.splitlines()]
    code = "\n".join(line for line, match in found if not match).strip("\n")
    return code, {match[1]: match[2].strip() for _, match in found if match}


def tags(code, directives, old, kind):
    "The tags by which the site shows, folds or leaves out a code cell's source."
    new = set(old) | ({"export"} if "export" in directives else set())
    if kind == "paper" or directives.get("echo") == "false" or code.startswith("show_doc("):
        new.add("remove-input")
    elif (
        "code-fold" in directives or "injected-parameters" in old or (kind == "experiment" and code.count("\n") >= LONG)
    ):
        new.add("hide-input")
    return sorted(new)


def tables_drawn(codes, page):
    """The tables behind the figures that each cell of a page saves, where it was run; what a function names by its
    argument (a braced part of a name) stands where it is called."""
    folder = next((up / "figures" for up in page.shown.parents[:3] if (up / "figures").is_dir()), None)
    found = [[] for _ in codes]
    for number, name in ((number, name) for number, code in enumerate(codes) if folder for name in SAVED.findall(code)):
        for path in sorted(folder.glob(f"{BRACED.sub('*', name)}.csv")):
            given = re.fullmatch("(.*)".join(map(re.escape, BRACED.split(name))), path.stem).groups()
            calls = [
                later for later in range(number + 1, len(codes)) if any(f'("{part}")' in codes[later] for part in given)
            ]
            found[calls[0] if calls else number].append(path)
    return found


def taken_away(tables, page, links):
    "A line under a figure: its table, and itself as PDF."
    up = Path(page.name).parent
    files = [path for table in tables for path in (table, table.with_suffix(".pdf")) if path.exists()]
    told = " · ".join(f"[{path.name}]({os.path.relpath(links.target(path), up)})" for path in files)
    return [markdown(f":::{{container}} figure-files\n{told}\n:::")] if told else []


def for_both_grounds(svg):
    "A figure that in the dark has lighter grey, and hollow markers filled with the dark ground and not with white."
    return svg.replace("<defs", IN_THE_DARK + "<defs", 1)


def said_of(outputs, before, after):
    "What the figures among some outputs show, in plain words: the caption under them, else what was said before."
    under = [
        joined(output["data"]["text/markdown"]) for output in outputs if "text/markdown" in output.get("data", {})
    ] + [after]
    said = next((text for text in under if text.startswith("**")), before.strip().split("\n\n")[-1])
    words = re.sub(r"\[([^\]]*)\]\([^)]*\)|<[^>]*>|[*`$#]", r"\1", said).split()
    return " ".join(words[:MOST_WORDS]) + " …" * (len(words) > MOST_WORDS)


def outputs_apart(outputs):
    "The outputs of a cell, apart before each figure but the first."
    groups = [[]]
    for output in outputs:
        is_figure = lambda one: any(kind.startswith("image/") for kind in one.get("data", {}))
        if is_figure(output) and any(map(is_figure, groups[-1])):
            groups.append([])
        groups[-1].append(output)
    return groups


def turned(output, page, links):
    "An output as the site shows it."
    data = output.get("data", {})
    if "text/markdown" in data:
        text = FIGURE.sub(r'<a href="\2.html#figure-\4">\1</a>, [data](\3)', joined(data["text/markdown"]))
        data["text/markdown"] = links.turn(text, page.origin, page.name)
    if "image/svg+xml" in data:
        data["image/svg+xml"] = for_both_grounds(joined(data["image/svg+xml"]))
    for kind in data.keys() & {"text/markdown", "text/html"}:
        data[kind] = INTERVAL.sub("\\1\N{NO-BREAK SPACE}", joined(data[kind]))
    if "text/html" in data:
        data["text/html"] = HEADING.sub(lambda heading: heading[0].replace("_", "_<wbr>"), data["text/html"])
    return output


def code_cell(cell, page, links, tables, before="", after=""):
    """The cells that a code cell becomes, with the tables behind its figures and between two texts: none where it is
    hidden, one for each figure, an anchor before them where it is exported or saves a figure, and after them the
    figure's files."""
    code, directives = split(joined(cell["source"]))
    if directives.keys() & {"hide", "default_exp"} or directives.get("include") == "false" or not code.strip():
        return []
    labels = tags(code, directives, cell["metadata"].get("tags", []), page.kind)
    names = [a or b for a, b in EXPORTED.findall(code)] if page.kind == "library" and "export" in directives else []
    places = [f"source-{name}" for name in names if name not in ("__all__", "_")] + [
        f"figure-{table.stem}" for table in tables
    ]
    anchors = "".join(f'<span class="anchor" id="{place}"></span>' for place in places)
    shown = []
    for number, outputs in enumerate(outputs_apart(cell.get("outputs", []))):
        metadata = {
            "tags": sorted({*labels, "remove-input"}) if number else labels,
            "mystnb": {"image": {"alt": said_of(outputs, before, after)}},
        }
        shown.append(
            cell
            | {"source": code, "metadata": metadata, "outputs": [turned(output, page, links) for output in outputs]}
        )
    return ([markdown(anchors)] if anchors else []) + shown + taken_away(tables, page, links)


def markdown(text):
    "A new markdown cell."
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def strip(page):
    "The line under the title: where the numbers come from, and the notebook itself."
    up = "../" * page.name.count("/")
    notebook = f'<a href="{up}notebooks/{page.name}.ipynb" download>{page.origin.name}</a>'
    note = f"{page.note[:1].upper()}{page.note[1:]} · " if page.note else ""
    unrun = " page-unrun" if page.note.startswith("not run") else ""
    return markdown(f'<p class="page-note page-{page.kind}{unrun}">{note}Notebook: {notebook}</p>{answers(page)}')


def answers(page):
    "What the paper of the same results says of the claims that a page decides, in a line; nothing for other pages."
    table = page.shown.parents[2] / "claims.csv" if page.kind == "experiment" and len(page.shown.parents) > 2 else None
    if table is None or not table.is_file():
        return ""
    with open(table, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["experiment"] == page.origin.stem]
    scale, told = page.shown.parents[2].name, {}
    for row in rows:
        told.setdefault(row["verdict"], []).append(
            row["id"] + (f" (scale {row['scale']})" if row["scale"] not in ("", scale) else "")
        )
    words = "; ".join(f"<b>{word}</b> {', '.join(ids)}" for word, ids in sorted(told.items()))
    return f'<p class="page-verdicts">What the paper says of its claims: {words}.</p>' if told else ""


def front(cell):
    "A first cell as two: the title with its one-line summary, and the rest."
    source = joined(cell["source"])
    title = re.match(r"\s*#[^\n]*\n?(\s*>[^\n]*\n?)*", source)
    return (title[0], source[title.end() :]) if title else ("", source)


def prepare(page, links):
    "The notebook of a page as Sphinx shall see it."
    notebook = json.loads(page.shown.read_text(encoding="utf-8"))
    cells = []
    texts = [joined(cell["source"]) if cell["cell_type"] == "markdown" else "" for cell in notebook["cells"]] + [""]
    tables = tables_drawn(
        ["" if cell["cell_type"] == "markdown" else split(joined(cell["source"]))[0] for cell in notebook["cells"]],
        page,
    )
    for number, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            before = next(filter(None, reversed(texts[:number])), "")
            cells += code_cell(cell, page, links, tables[number], before, texts[number + 1])
        elif cell["cell_type"] == "markdown":
            cells.append(cell | {"source": links.turn(texts[number], page.origin, page.name), "metadata": {}})
    title, rest = front(cells[0]) if cells and cells[0]["cell_type"] == "markdown" else ("", "")
    top = [markdown(title or f"# {page.origin.stem}"), strip(page)] + ([markdown(rest)] if rest.strip() else [])
    cells = top + cells[1 if title or rest else 0 :]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"
    language = {"name": "python", "pygments_lexer": "python"}
    return {"cells": cells, "metadata": {"language_info": language}, "nbformat": 4, "nbformat_minor": 5}
