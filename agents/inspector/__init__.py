"""The web page of a run: `evolvent inspect DIR`.

Starlette and Jinja2 render every view on the server: each has an address of its own, works with the keyboard and
without script, and can be tested without a browser; templates escape all that a model may have written, and a strict
Content-Security-Policy stands behind them. Plotly draws the figures. Frameworks that keep the page's state in a socket
(NiceGUI, Streamlit, Panel) were left: they need inline scripts, and their pages have no addresses.
"""
