"""`masklake view` and `show`: a lake's images with what was detected and labelled, in a browser or as pictures.

In this room: which images are asked for (`selection`), their rows (`gallery`), the photos (`photos`), the static site
(`site`), the server (`server`), and the page that both give to a browser (`static/`). All SQL goes through the sandbox of
`query`. Keys and labels are hostile text: the page shows them by textContent, files are named by hash.
"""
