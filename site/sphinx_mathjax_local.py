"Serve MathJax from the site itself, copied out of the sphinx-mathjax-offline wheel, so that no page asks a CDN."

import shutil
from importlib.util import find_spec
from pathlib import Path

NEEDED = ["tex-chtml-full.js", "output/chtml/fonts/woff-v2"]


def source():
    "The MathJax folder of the installed wheel (its name has hyphens, so it cannot be imported)."
    return Path(find_spec("sphinx-mathjax-offline").submodule_search_locations[0]) / "static" / "mathjax"


def copy(app, exception):
    "Copy the one script and the fonts: 2 MB of the wheel's 24."
    if exception or app.builder.format != "html":
        return
    for needed in NEEDED:
        old, new = source() / needed, Path(app.outdir) / "_static" / "mathjax" / needed
        new.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(old, new, dirs_exist_ok=True) if old.is_dir() else shutil.copy2(old, new)


def setup(app):
    "Called by Sphinx."
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = "mathjax/tex-chtml-full.js"
    app.connect("build-finished", copy)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
