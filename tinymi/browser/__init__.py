"""The course without a server: `tinymi site OUT --browser` writes a folder whose pages run Python in the visitor's tab.

build.py writes the folder: Pyodide (pyodide.py), tinymi and what it needs (packages.py), the model, and the few scripts
of shell/. There, shell.js is the page that stays. It owns a Web Worker (worker.js), in which worker.py answers the
requests that the server of tinymi.serve answers elsewhere; the service worker (service.js) brings them.
"""
