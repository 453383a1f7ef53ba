"""Where does knowledge sit in a model, and where does reasoning over the prompt?

asked              what the model says to every item: those that it answers right are measured
measures           what each method says of every layer, item by item
plan               all that is measured, and on whom
attribution_check  whether the first-order method is right here
probed             whether the answer can be read off each layer
thoughts           the same items answered at once, and after thinking
token_maps         one item at a time, layer by token
two_models         where a second model differs, and what its blocks carry
verdict            the one statistic, on every curve, and what it settles
run                all of it in one run folder
"""
