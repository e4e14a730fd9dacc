"""The data doctor: what is wrong with a data set, by file and with the fix, before training starts.

`places` finds where a layout keeps photos and masks, `pairs` matches them by name, `inspect` reads each
file once (in many processes) into small facts, the `rules_*` turn facts into findings, `duplicates` compares
photos across splits, `class_pixels` counts and weighs classes, `histogram` and `contact_sheet` draw,
`report` writes, `run` does it all.
"""
