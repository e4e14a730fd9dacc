"""Pictures in and out: photos, label maps (indexed PNG), overlays with a legend.

`photos` finds and reads photos, `label_maps` writes and reads class indices, `overlay` shows labels on a
photo, `legend` draws the names beneath it, `png` writes any of these without leaving half a file.
"""
