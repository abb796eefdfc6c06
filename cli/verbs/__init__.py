"""The verbs, one file each; the file's name is the verb.

A file holds PANEL, the heading that it stands under in the help, and either `command`, a function
with annotated parameters and its help as the docstring, or `app`, a group of such commands. It is
imported when its verb is called, and imports what is heavy inside the function.
"""
