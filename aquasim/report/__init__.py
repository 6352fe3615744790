"""Reports: one HTML file each that needs no network, made of sections of text, tables and figures.

A page is data, and knows nothing about runs:

    from aquasim.report.page import Cell, Details, Page, Points, Section, Table, Text

    page = Page("Rates from 1 to 8", [
        Section("In short", [Text("Slices pay from 4 requests per second on.")]),
        Section("All points", [
            Table(("rate", "TTFT p99 s"), [(Cell("4"), Cell("0.71", note="30x shorter", tone="better", best=True))]),
            figure,  # an aquasim.figures.theme.Figure: chart, columns, words
            Details("The scenario", toml_text),
        ]),
    ])
    page.write(Path("sweep.html"))

Strings may hold anything: they are shown as text. `aquasim.report.sources` finds out what a folder holds;
`runs`, `sweeps`, `validation`, `reproduction` and `calibration` make pages of it.
"""
