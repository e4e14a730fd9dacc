"""The data doctor: what is wrong with a data set, by file and with the fix, before training starts.

`found` surveys the splits as training does, `inspect` reads each file once (in many processes) into small facts, the
`rules_*` turn facts into findings, `duplicates` compares photos across splits, `class_pixels` counts classes,
`histogram` and `contact_sheet` draw, `report` writes, `run` does it all.
"""
