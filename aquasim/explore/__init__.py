"""A page whose sliders rerun a small scenario: what each of its quantities does, within about a second.

`controls` says what can be turned, and what that changes in the scenario; `answer` simulates and folds it into a
table and figures; `workers` keeps that in a process which newer input ends; `server` and `page` are what a browser
sees.
"""
