"""Tables that scripts write into pages, between marks that the page keeps."""


def fill(text: str, name: str, table: str) -> str:
    """Replace what stands between the marks of `name`.

    >>> fill("a <!-- x: begin -->old<!-- x: end --> b", "x", "new")
    'a <!-- x: begin -->\\nnew\\n<!-- x: end --> b'
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, rest = text.split(begin)
    return f"{before}{begin}\n{table}\n{end}{rest.split(end)[1]}"
