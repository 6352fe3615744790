"""Figures of runs: records in, Altair charts out, one file per family.

A family takes `Systems`, labelled runs in the order of their colours, and returns `Figure`s: a chart, its data as
columns, and the words that belong beside it. Data that would be too large are folded into bins, quantiles or a window
of time, and the figure's text says so. `aquasim.report` puts figures on a page, `theme.save` into SVG and PNG files.
"""
