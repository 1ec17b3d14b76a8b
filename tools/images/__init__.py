"""Container images from this repository, with docker or with buildah, with or without a registry within reach.

`catalogues` lists our images, `wheels` prepares what goes into them, `builders` builds; `python -m tools.images` is the
door for people.
"""
