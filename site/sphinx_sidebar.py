"""The sidebar, made once for each folder: making it for each page, as Sphinx and furo do, is a quarter of the build.

What the pages of a folder see differs by the current page alone: it, and the lists and entries that it stands in,
are marked.
"""

import re
from functools import cache
from posixpath import basename, dirname, join

from furo.navigation import get_navigation_tree
from sphinx.environment.adapters.toctree import TocTree


@cache
def pieces(builder, folder):
    "A folder's sidebar with nothing marked, cut before each tag of a list or an entry."
    tree = TocTree(builder.env).get_toctree_for(
        join(folder, "-"), builder, collapse=False, titles_only=True, maxdepth=-1, includehidden=True
    )
    return re.split(r"(?=</?(?:ul|li)\b)", get_navigation_tree(builder.render_partial(tree)["fragment"]))


def around(pieces, place):
    "Where the lists and entries that hold a place begin, the outermost first; the last is the entry itself."
    opened = []
    for number, piece in enumerate(pieces[1 : place + 1], start=1):
        opened.pop() if piece.startswith("</") else opened.append(number)
    return opened


def current(piece):
    "A list or an entry that the current page stands in; where it can be folded, it is open."
    piece = re.sub(r'^<li class="[\w-]+', r"\g<0> current", piece.replace("<ul>", '<ul class="current">'))
    return piece.replace(' class="toctree-checkbox"', ' checked="" class="toctree-checkbox"')


def sidebar(pieces, target):
    "A folder's sidebar for the page that its links call `target`."
    link, marked = f'<a class="reference internal" href="{target}">', list(pieces)
    for place in (number for number, piece in enumerate(pieces) if link in piece):
        for number in around(pieces, place):
            marked[number] = current(pieces[number])
        entry = marked[place].replace(link, '<a class="current reference internal" href="#">')
        marked[place] = re.sub(r'^<li class="[^"]+', r"\g<0> current-page", entry)
    return "".join(marked)


def before(app, page, template, context, doctree):
    "Called for each page: the theme makes no sidebar where there is no tree."
    context.pop("toctree")


def after(app, page, template, context, doctree):
    "Called for each page when the theme is done."
    context["furo_navigation_tree"] = sidebar(
        pieces(app.builder, dirname(page)), basename(app.builder.get_target_uri(page))
    )


def setup(app):
    "Called by Sphinx."
    app.connect("html-page-context", before, priority=400)
    app.connect("html-page-context", after, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
