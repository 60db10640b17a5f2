"""Facts about writing systems."""

__all__ = ["HAN"]

# Chinese characters, for a class of a regular expression
HAN = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
