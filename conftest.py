"""What pytest leaves out: the page, where Gradio, which it alone needs, is not installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("gradio") else ["hdb/demo/page.py"]
