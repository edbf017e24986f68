from tests.reading import anchors, blocks, links

PAGE = """# A title

## What `x` *is*, really?
## Twice
## Twice

```sh
# no heading
echo "](nowhere.md)"
```

<!-- not run: needs a cluster -->
```python
x = 1
```

See [there](page.md#twice-1) and `[not](this.md)`, ![a picture](figure_(1).png).
"""


def test_headings_give_the_anchors_that_links_use():
    assert anchors(PAGE) == {"a-title", "what-x-is-really", "twice", "twice-1"}


def test_links_in_code_are_none():
    assert links(PAGE) == ["page.md#twice-1", "figure_(1).png"]


def test_blocks_know_their_language_and_whether_they_run():
    assert [(block.language, block.runs) for block in blocks(PAGE)] == [
        ("sh", True),
        ("python", False),
    ]
