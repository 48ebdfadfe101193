"""Theory of the signal: mean field over any recorded model, with a band for finite width.

Mean field keeps of each tensor its mean square q and the correlations c of pairs of units (`field.py`), as they are on
average over draws of the weights. A rule says what an operation makes of them, and what it makes of a gradient going
back. Three rules by hand, for unit inputs to `Linear(n, n)`, `ReLU`, `BatchNorm1d` under He's Var[w] = 2/n:

1. Linear (`meanfield.weighted`): y is a sum over n inputs, so q = n Var[w] E[x^2] = n (2/n) 1 = 2. Two examples share
   their weights, so c stays that of the inputs: 0 for independent ones. Back, each of the n inputs collects n
   gradients: E[dx^2] = n Var[w] E[dy^2] = 2 E[dy^2].
2. ReLU (`meanfield.activation`): half of a normal's square is above 0, so q = 2/2 = 1; and E[relu(u) relu(v)] of
   independent normals is q/(2 pi), so c goes from 0 to 1/pi. Back, half of the units are open: E[dy^2]/2.
3. BatchNorm (`norms.norm`): a channel's mean over a large batch has the square c q = 1/pi, the average product of two
   examples. Without it 1 - 1/pi of q is left, which the norm divides by: q = 1, and c = (1/pi - 1/pi)/(1 - 1/pi) = 0.
   Back, the gradient is divided by that variance too: pi/(pi - 1) = 1.466942 times the mean square.

So the three together hand on q = 1 and c = 0 as they came, and multiply the gradient by 2 (1/2) 1.466942: a signal that
looks healthy at every layer, and a gradient that grows 98,263-fold over 30 of them (Yang et al. 2019).

Around these means one draw of a net scatters, by about 5/n a layer in the logarithm's variance (`width.py`): the band.
Narrow layers move the means too: levels and correlations scatter from example to example (`spread.py`), and the part of
a gradient that lies along its own signal grows faster than the rest (`meanfield.Radial`).

`predict` records the model's operations (`recorder.py`), runs the rules forward and back (`rules.py`, `passes.py`) and
gives a table; an operation without a rule is measured as it runs. A rule that does not cover a call raises `NoRule`:
each layer is then predicted from its own input alone (`passes.local_law`). `redraw.py` measures the band instead.
"""
