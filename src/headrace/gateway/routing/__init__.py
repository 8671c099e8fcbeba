"""Rules before the models of a route: who is asked, what is answered without one, and why.

`facts` is what a rule may know of a request, `rules` judge it in order, `router` is the `Backend`
that acts on the first that matches; `classifier` labels texts with weights that `training` made;
`build` makes all of it from settings.
"""
