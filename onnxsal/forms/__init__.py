"""Forms: how a formula is written where the file will run, in one room.

An operator states its formula once, in ``ops/``. A formula can be written in several forms that compute the same numbers: the plain one,
which suits every place, and others that are faster in one. ``choice`` decides which is taken, by what is known of the tensors and by where
the file will run (``Emit.runs_on``); where nothing is known, or the place is "any", it is the plain form.

On the CPU, ONNX Runtime runs convolutions in a blocked layout (NCHWc: channels in blocks of 8 or 16). A node that does not know the layout
makes it leave it and enter it again, which costs as much as the node. The forms here keep to what the layout knows: Conv, pooling without
indices, HardSigmoid, Add and Mul of two tensors of one shape, Concat over channels, nearest Resize by whole factors.

    choice.py    which tensors the blocked layout can hold; the gate through which a tensor enters it
    masks.py     a signal where an activation passes it, as products with 0/1
    max_pool.py  the adjoint of a max pool, without indices
    enlarge.py   the adjoints of means over all places and of strided convolutions
    scale.py     a factor per channel, within the kernel that follows
"""
