"Let the sidebar be made from titles alone: Sphinx copies the headings of every page into that of each, then throws them away."
from sphinx import addnodes


def titles(toc):
    "A page's contents without its headings: its title, and what it lists of other pages."
    toc = toc.deepcopy()
    for item in (item for item in toc.children if len(item) > 1):
        if listed := list(item.findall(addnodes.toctree)):
            item[1][:] = listed
        else:
            item.pop(1)
    return toc


def shorten(app, env):
    "Called when all pages are read."
    app.titles = {page: titles(toc) for page, toc in env.tocs.items()}


def sidebar(app, page, template, context, doctree):
    "Called for each page, before the theme asks for the sidebar's tree."
    tree = context["toctree"]

    def quick(**options):
        whole, app.env.tocs = app.env.tocs, app.titles
        try:
            return tree(**options)
        finally:
            app.env.tocs = whole

    context["toctree"] = quick


def setup(app):
    "Called by Sphinx."
    app.connect("env-updated", shorten)
    app.connect("html-page-context", sidebar, priority=400)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
