"""Whether this is a browser's tab: Python in WebAssembly, by Pyodide. It has one process, no threads, no installer."""

import sys

IN_BROWSER = sys.platform == "emscripten"
MOST_MEMORY = 2**32  # bytes that its addresses reach
