"""README.md from nbs/index.ipynb: text as it is, code as fenced blocks, what hidden code says in its place.

python site/readme.py [--check]
"""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEAD = "<!-- Generated from nbs/index.ipynb by site/readme.py; edit the notebook. -->\n\n"
DIRECTIVE = re.compile(r"^\s*#\s*\|\s*([\w-]+)")
LINK = re.compile(r"(\]\(|src=\")(?!https?:|mailto:|#|/)([^)\"\s]+)")


def from_the_root(match):
    "A link that holds from nbs/ as one that holds from the repository's root, where README.md lies."
    target = match[2].removeprefix("../") if match[2].startswith("../") else f"nbs/{match[2]}"
    return match[1] + target


def block(cell):
    "One cell as markdown, or None where it is hidden or empty."
    source = "".join(cell["source"]).strip()
    if cell["cell_type"] == "markdown":
        return LINK.sub(from_the_root, source) or None
    lines = source.splitlines()
    directives = {m[1] for line in lines if (m := DIRECTIVE.match(line))}
    code = "\n".join(line for line in lines if not DIRECTIVE.match(line)).strip()
    if "echo" in directives:  # the site too shows what it says alone
        return said(code)
    return f"```python\n{code}\n```" if code and not directives & {"hide", "default_exp"} else None


def said(code):
    "The markdown that the last line of some code gives."
    *body, last = ast.parse(code).body
    names = {}
    exec(compile(ast.Module(body, []), "index.ipynb", "exec"), names)
    return eval(compile(ast.Expression(last.value), "index.ipynb", "eval"), names).data


def readme():
    "The text that README.md should have."
    notebook = json.loads((ROOT / "nbs" / "index.ipynb").read_text(encoding="utf-8"))
    return HEAD + "\n\n".join(filter(None, map(block, notebook["cells"]))) + "\n"


def main():
    "Write README.md, or with --check only say whether it is what it should be."
    target = ROOT / "README.md"
    if not (ROOT / "nbs" / "index.ipynb").exists():
        sys.exit("nbs/index.ipynb is missing: README.md is made from it")
    if "--check" not in sys.argv[1:]:
        target.write_text(readme(), encoding="utf-8")
        if (figure := ROOT / "build" / "gates.svg").exists():  # drawn by the notebook when it is run
            shutil.copyfile(figure, ROOT / "nbs" / "gates.svg")
    elif target.read_text(encoding="utf-8") != readme():
        sys.exit("README.md is not what nbs/index.ipynb says; mend with: python site/readme.py")


if __name__ == "__main__":
    main()
