"""How a lesson's talk is written down: items (what is said), and three writers: terminal, JSON, HTML page.

The items are plain frozen data; each writer is a set of functions over them. Nothing here computes a result
or touches a model, and importing it loads no third-party package: those are imported where they are used.
"""
