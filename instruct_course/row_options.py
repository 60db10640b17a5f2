"""The options by which rows are read, which several commands have."""

from instruct_course.common.options import option

__all__ = ["as_list", "columns", "encoding", "json_output", "response_marker"]


def as_list(config, name: str) -> None:
    """One text in place of a list of texts is a list of one."""
    if isinstance(getattr(config, name), str):
        object.__setattr__(config, name, [getattr(config, name)])


def columns():
    """The option that says which columns are read."""
    return option(
        "which columns to read, such as instruction=ask,input=doc,output=reply; "
        "default: found by their names",
        None,
    )


def encoding():
    """The option that says how text files are encoded."""
    return option(
        "of text files, such as gbk; default: UTF-8, or another that is certain from the bytes",
        None,
    )


def json_output():
    """The option that lets an output be an object or a list."""
    return option("write an output that is an object or a list as JSON", False)


def response_marker():
    """The option that says where the answer starts in rows that are one text."""
    return option(
        "the text before the answer, such as '### Response:', where a row is one text; the "
        "template is then verbatim",
        None,
    )
