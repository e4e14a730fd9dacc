"""Side-by-side measurements: each variant is a process of its own, and they take turns.

`worker` runs one variant; `process` starts it and talks to it; `rounds` lets several take turns and computes ratios;
`machine` says where; `results` keeps what was found and prints it. `cases` and the modules beside it say what is
compared. Anything simpler (variants one after the other, in one process) gave ratios that were wrong by a factor of
two and more.
"""
