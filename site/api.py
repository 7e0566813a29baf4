"Pages of the API, one a module, read from the source (nothing is imported): signatures, comments, docstrings."

import ast
import re

COMMENT = re.compile(r"#\s?(.*)$")
LONGEST = 12  # lines of a constant's value that are shown


class Module:
    "The parts of one module's source that its page shows."

    def __init__(self, path):
        self.name, self.source = path.stem, path.read_text(encoding="utf-8")
        self.lines, self.tree = self.source.splitlines(), ast.parse(self.source)
        self.summary = (ast.get_docstring(self.tree) or "").split("\n")[0]
        made_from = re.search(r"File to edit: \.\./(nbs/\S+)", self.source)
        self.notebook = made_from[1].rstrip(".") if made_from else None

    def text(self, node):
        "The source of a node, or the empty string (columns count bytes; ast's own function splits the file each time)."
        if node is None:
            return ""
        lines = [line.encode() for line in self.lines[node.lineno - 1 : node.end_lineno]]
        lines[-1] = lines[-1][: node.end_col_offset]
        lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode()

    def comment(self, line):
        "The comment that ends a line."
        code = self.lines[line - 1]
        match = COMMENT.search(code[code.rfind("  #") :]) if "  #" in code else None
        return match[1].strip() if match else ""

    def symbols(self):
        "Public names in the order of the source: (name, node)."
        for node in self.tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                yield node.name, node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name):
                    yield target.id, node

    def public(self):
        "`symbols` without private names, in the module's `__all__` where it has one."
        exported = next((ast.literal_eval(n.value) for s, n in self.symbols() if s == "__all__"), None)
        return [(s, n) for s, n in self.symbols() if (s in exported if exported is not None else not s.startswith("_"))]


def parameters(module, function, skip=()):
    "Rows (name, type, default, comment) of a function's parameters."
    a = function.args
    plain = a.posonlyargs + a.args
    defaults = [None] * (len(plain) - len(a.defaults)) + a.defaults
    rows = list(zip(plain, defaults, [""] * len(plain)))
    rows += [(a.vararg, None, "*")] if a.vararg else []
    rows += [(arg, default, "") for arg, default in zip(a.kwonlyargs, a.kw_defaults)]
    rows += [(a.kwarg, None, "**")] if a.kwarg else []
    return [
        (stars + arg.arg, module.text(arg.annotation), module.text(default), module.comment(arg.end_lineno))
        for arg, default, stars in rows
        if arg.arg not in skip
    ]


def fields(module, node):
    "Rows of a dataclass's fields."
    found = [n for n in node.body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)]
    return [(n.target.id, module.text(n.annotation), module.text(n.value), module.comment(n.end_lineno)) for n in found]


def call(name, rows, returns=""):
    "A call as one would write it, on several lines where it is long."
    parts = [n + (f": {t}" if t else "") + ((" = " if t else "=") + d if d else "") for n, t, d, _ in rows]
    after = f" -> {returns}" if returns else ""
    line = f"{name}({', '.join(parts)}){after}"
    return line if len(line) <= 88 else f"{name}(\n" + "".join(f"    {p},\n" for p in parts) + f"){after}"


def table(rows, returns=("", "")):
    "The comments on parameters (and on what is returned), as a table; nothing where there are none."
    told = [(f"`{name}`", comment) for name, _, _, comment in rows if comment]
    told += [("returns", returns[1])] if returns[1] else []
    body = "".join(f"| {name} | {comment.replace('|', chr(92) + '|')} |\n" for name, comment in told)
    return f"| | |\n|---|---|\n{body}" if told else ""


def python(code):
    "A block of Python."
    return f"```python\n{code}\n```\n"


def doc(node):
    "A docstring as markdown; a name in an index like [N, C] is text."
    return (ast.get_docstring(node) or "").replace("[", "\\[").replace("\n\n\n", "\n\n") + "\n"


def function(module, node, name=None, skip=()):
    "Signature, docstring and parameters of a function."
    rows = parameters(module, node, skip)
    returns = module.text(node.returns), module.comment(node.body[0].lineno - 1) if node.returns else ""
    return "\n".join([python(call(name or node.name, rows, returns[0])), doc(node), table(rows, returns)])


def cls(module, node):
    "A class: how it is made, what it is, its public methods that say something."
    methods = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    made = next((m for m in methods if m.name == "__init__"), None)
    rows = parameters(module, made, ["self"]) if made else fields(module, node)
    parts = [python("class " + (call(node.name, rows) if rows else node.name)), doc(node), table(rows)]
    for m in methods:
        # forward and the like say nothing that the class does not
        if not m.name.startswith("_") and ast.get_docstring(m):
            is_property = any(module.text(d) in {"property", "cached_property"} for d in m.decorator_list)
            text = (
                python(f".{m.name}") + "\n" + doc(m)
                if is_property
                else function(module, m, f".{m.name}", ["self", "cls"])
            )
            parts.append("::::{container} method\n" + text + "\n::::\n")
    return "\n".join(parts)


def constant(module, node):
    "A constant's value, cut where it is long."
    lines = module.text(node).splitlines()
    return python("\n".join(lines[:LONGEST] + (["    # …"] if len(lines) > LONGEST else [])))


def symbol(module, name, node, page):
    "One public name of a module, with the way to the cell that defines it."
    place = f'<a class="source" href="../{page}.html#source-{name}">source</a>' if page else ""
    kinds = {ast.ClassDef: cls, ast.Assign: constant, ast.AnnAssign: constant}
    return f"## `{name}`\n\n{place}\n\n{kinds.get(type(node), function)(module, node)}\n"


def module_page(module, page):
    "The page of a module; `page` is that of its notebook."
    told = f"[How it works, with examples and tests](../{page}.ipynb)" if page else ""
    head = f"# fmm_nb.{module.name}\n\n{module.summary}\n\n{told}\n\n"
    return head + "\n".join(symbol(module, name, node, page) for name, node in module.public())


def index_page(modules):
    "All modules and their public names."
    rows = []
    for m in modules:
        names = ", ".join(f"[`{name}`]({m.name}.md#{name.lower()})" for name, _ in m.public())
        rows.append(f"| [{m.name}]({m.name}.md) | {m.summary} | {names} |\n")
    toc = "\n".join(f"{m.name}" for m in modules)
    return (
        "# API\n\nEvery public name, read from the package."
        " Each module has a page that explains it, shows it at work and tests it.\n\n"
        f"| module | what it is for | names |\n|---|---|---|\n{''.join(rows)}\n```{{toctree}}\n:hidden:\n\n{toc}\n```\n"
    )
