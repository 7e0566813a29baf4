"""Draw the figures of data/results/bench again, from the tables beside them, without measuring."""

import bench
import commands
import measures
import pandas as pd

from fmm_nb import figures

FOLDER = bench.ROOT / "data" / "results" / "bench"

for figure in sorted(FOLDER.glob("*.svg")):
    script = next((one for one in (commands, measures) if figure.stem.endswith(one.__name__)), bench)
    table = pd.read_csv(figure.with_suffix(".csv"))
    figures.save(script.draw(table), figure.stem, table, FOLDER)
