"""Where does knowledge sit in a model, and where does reasoning over the prompt?

measures    what each method says of every layer, item by item
probed      whether the answer can be read off each layer
thoughts    the same items answered at once, and after thinking
token_maps  one item at a time, layer by token
verdict     the one statistic, on every curve, and what it settles
run         all of it in one run folder
"""
