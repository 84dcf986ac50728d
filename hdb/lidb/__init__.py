"""Lightweight DreamBooth (LiDB): a LoRA inside random frozen bases, so that one person takes about 30,000 numbers.

    theta ─► Layout ─► (down, up) of every slot ─► LiDBLinear:  y = W x + up_aux · up · down · down_aux x
    (n, p)   slots     (n, r, a), (n, b, r)

`slot` describes one layer and its bases, `layout` the order of all slots in theta, and `residuals` holds theta together
with its layout. `linear` is one personalized layer, and `adapter` puts such layers into the components of a base.
`names` says which layers these are and what other programs call them. `file` reads and writes one subject, `export`
writes LoRA files for other programs, and `modelspec` their metadata.

Source: Ruiz et al., HyperDreamBooth, https://arxiv.org/abs/2307.06949, section 4.1 (lightweight DreamBooth)
"""
