"""One door for pictures: whatever comes in is decoded once, to 8-bit sRGB with alpha, upright; what was converted is said.

`door` opens, `masks` reads what a second picture marks, `files` knows the kinds, `colours` the profiles. Imports nothing else of
this repository but `pfv_core`. Another kind of file begins in `files`.
"""
