"""The demo page: a sentence, filters and images of a gallery, ranked, in a browser on this machine.

`commands` starts it, `serving` serves it, `page` is what happens on it, `searching` what it asks of a gallery.
"""
