"Sphinx configuration of the HTML edition. Pages are prepared and executed before (build.py); nothing runs here."

import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
ini = ConfigParser(delimiters=["="])
ini.read(HERE.parent / "settings.ini", encoding="utf-8")
settings = ini["DEFAULT"]

project, release, author = settings["title"], settings["version"], settings["author"]
copyright = settings["copyright"]
extensions = ["myst_nb", "sphinx_mathjax_local", "sphinx_sidebar", "sphinx_words"]
root_doc = "index"
source_suffix = {".ipynb": "myst-nb", ".md": "myst-nb"}
exclude_patterns = ["files"]

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_code_prompt_show = "Show code"
nb_code_prompt_hide = "Hide code"
nb_ipywidgets_js = {}  # the default asks a CDN
myst_enable_extensions = ["amsmath", "dollarmath", "colon_fence", "deflist", "attrs_inline"]
myst_heading_anchors = 3
myst_dmath_double_inline = True
smartquotes_action = "qe"  # quotes and ellipses; dashes stand as they are written, or --data would lose one
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type"]

html_theme = "furo"
html_title = f"{project} {release}"
html_static_path = [str(HERE / "_static")]
html_css_files = ["paper.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_sphinx = False
html_use_index = False
html_domain_indices = False
html_theme_options = {"navigation_with_keys": True}
pygments_style = "tango"
pygments_dark_style = "github-dark"
