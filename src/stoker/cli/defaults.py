"""What commands take where nothing was typed. Does not import anything, as every start loads it."""

FILE = "stoker.toml"
COLLECTION = "demo"
HANDLERS = {"nodejs": "index.handler", "python": "main.handler"}
RUNTIMES = tuple(HANDLERS)
