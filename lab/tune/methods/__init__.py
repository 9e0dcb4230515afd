"""One fine-tune method a module; importing the package registers none, the registry's first look does."""
