"The pages of data and results: tables and files to take away."

import csv

MOST = 60  # rows of a table that are shown; the file has all


def read(path):
    "A CSV file as rows of text."
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def cell(text):
    "A value that cannot break out of its cell."
    return (
        text.replace("|", "\\|")
        .replace("\n", " ")
        .replace("<", "&lt;")
        .replace("$", "\\$")
        .replace("*", "\\*")
        .replace("_", "\\_")
    )


def table(rows):
    "Rows, the first of them the header, as a markdown table."
    head, *body = [[cell(v) for v in row] for row in rows] or [[]]
    lines = ["| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *body[:MOST]]]
    return (
        "\n".join(lines) + (f"\n\n… and {len(body) - MOST} more rows in the file." if len(body) > MOST else "") + "\n"
    )


def size(path):
    "A file's size for people."
    n = path.stat().st_size
    return f"{n / 1e6:.1f} MB" if n >= 1e6 else f"{n / 1e3:.1f} kB"


def downloads(paths, root, links):
    "A list of links to files."
    return "".join(f"- [{p.relative_to(root)}]({links.target(p)}), {size(p)}\n" for p in paths)


def data_page(data, links):
    "data/README.md, and the tables that ship."
    told = data / "README.md"
    text = links.turn(told.read_text(encoding="utf-8"), told, "data") if told.exists() else "# Data\n"
    files = sorted(p for p in (data / "reported").rglob("*.csv")) + sorted((data / "mini").glob("*.npz"))
    return text + ("\n\n## Files\n\n" + downloads(files, data, links) if files else "")


def loose_page(path, links):
    "A text of the repository's root as a page that no sidebar lists."
    return "---\norphan: true\n---\n\n" + links.turn(path.read_text(encoding="utf-8"), path, path.stem.lower())


def decided(claims):
    "Of the table of claims, those that were tested, as id, verdict and statement; the paper has all."
    head, *body = claims
    columns = [head.index(name) for name in ("id", "verdict", "statement")]
    return [[row[c] for c in columns] for row in [head, *body] if row[columns[1]] != "not tested"]


def group(folder, title, root, links):
    "What one folder of results holds: claims, figures, rows."
    parts = [f"## {title}\n"]
    if (folder / "claims.csv").exists():
        parts += ["### Claims that were tested\n", table(decided(read(folder / "claims.csv")))]
    figures = sorted((folder / "figures").rglob("*.svg"))
    parts += ["### Figures\n"] * bool(figures)
    parts += [f"![{p.stem}]({links.target(p)})\n\n`{p.stem}`\n" for p in figures]
    files = sorted(folder.rglob("*.csv"))
    parts += ["### Tables\n", downloads(files, folder, links)] if files else []
    return "\n".join(parts)


def results_page(pages, scale, root, links):
    "What was run, and what came out, for the reader's own build and for what is published."
    rows = [["page", "shown here"]]
    text = (
        "# Results\n\n"
        + table(rows)
        + "".join(f"| [{p.origin.stem}]({p.name}.ipynb) | {p.note} |\n" for p in pages)
        + "\n"
    )
    folders = [(root / "build" / scale, f"Your build (scale {scale}{': not evidence' if scale == 'smoke' else ''})")]
    kept = [root / "data" / "results" / name for name in ("paper", "cpu", "smoke")]
    folders += [(p, f"Published (scale {p.name})") for p in kept if p.is_dir()]
    folders += [(p, "Speed (make bench)") for p in [root / "data" / "results" / "bench"] if p.is_dir()]
    return text + "\n".join(group(f, title, root, links) for f, title in folders if any(f.rglob("*.csv")))
