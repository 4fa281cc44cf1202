"""The common structure of benchmarks: contenders, interleaved repetitions, a report.

Example of a complete benchmark, ``bench/sorting.py``:

    @click.command()
    @run_options
    def sorting(options: RunOptions) -> None:
        \"\"\"Compare two ways to sort.\"\"\"
        contenders = [
            Contender("sorted", "10k floats", lambda: {"sort_ms": timed(sorted)}),
            Contender("numpy", "10k floats", lambda: {"sort_ms": timed(np.sort)}),
        ]
        machine = MachineFacts.read()
        results = interleave(contenders, options.repetitions)
        results = [result.with_ratio("sort_ms", to=results[0], name="ratio") for result in results]
        columns = (Column("ms", "sort_ms", spread=True), Column("ratio", "ratio", digits=2))
        options.publish(Report("sorting", columns, results, machine, settings=options.settings()))
"""

from trireme_loadtest.bench.harness.contender import Contender, Measurement, interleave
from trireme_loadtest.bench.harness.options import RunOptions, run_options
from trireme_loadtest.bench.harness.report import Column, Report
from trireme_loadtest.machine import MachineFacts

__all__ = ["Column", "Contender", "MachineFacts", "Measurement", "Report", "RunOptions", "interleave", "run_options"]
