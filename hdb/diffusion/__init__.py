"""The frozen base and its pictures: its folder, the model, somebody's weights in it, pictures.

`family` tells bases from what would be misread, `pipeline` reads and writes folders in diffusers' layout, `published`
in the names that every version opens, `original` single files. `stable_diffusion` is the frozen base, `digest` which
one it is, `base` reads the one that is asked for and `random_base` makes one of random weights. `personalized` is a
base with LiDB layers in it, bound to people, `merged` one with a person inside for good; `denoise` is its loss, `word`
a learned word in place of the identifier, `weights` exchanges the base's own for somebody's and puts them back;
`sampling` draws many people and prompts in one batch, `sheet` shows the pictures, `facts` what a base or a subject's
file is made of.
"""
