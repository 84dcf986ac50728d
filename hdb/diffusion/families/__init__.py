"""Families of bases: one file each says what belongs to a base and how it reads prompts.

- `family` is what all families share.
- `sd1` is Stable Diffusion 1.x and 2.x, `sdxl` Stable Diffusion XL.

A further family is a file like these and a row of FAMILIES in `hdb.diffusion.families.table`.
"""
