"""What theta means: a few numbers per layer that change a frozen diffusion model into one person's.

    theta ─► Layout ─► (down, up) of every slot ─► LiDBLinear:  y = W x + up_aux · up · down · down_aux x
    (n, p)   slots     (n, r, a), (n, b, r)

`slot` is one layer and its bases, `layout` the order of all slots, `residuals` theta together with its layout, `linear`
one personalized layer. `adapter` puts such layers into a UNet and a text encoder, `file` keeps one subject, `export`
writes what other programs load and `modelspec` what such a file says of itself.

Source: Ruiz et al., HyperDreamBooth, https://arxiv.org/abs/2307.06949, section 4.1 (lightweight DreamBooth)
"""
