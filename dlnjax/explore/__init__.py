"""The explorer: one page on which a person moves the depth, the start and the energy, and sees the flows at once.

`dlnjax explore` opens `_notebook.py`, a notebook of marimo, in the browser. The other modules know nothing of marimo. A
`State` is what the controls say, the `Model` turns it into arrays, the views turn these into drawings, and the `Page`
shows drawings.
"""
