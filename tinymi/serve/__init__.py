"""The course in the browser: `tinymi serve`. Lessons and the explorer answer to the reader's own prompts.

routes.py is the table of what is answered. server.py takes requests, guard.py refuses those that are none of the
reader's; lessons.py runs lessons, one at a time, and explorer.py computes what the explorer shows; pages.py writes both
as HTML.
"""
