"""The frame of every page: one file with its style, its script and its numbers, and nothing else."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from importlib import resources

from spectra.reports.html.markup import Child, Markup, tag

LANGUAGE = "en-GB"


def page(
    heading: str,
    *,
    kicker: Sequence[str],
    title: str,
    sections: Mapping[str, Markup | None],
    links: Mapping[str, str],
    data: Mapping[str, object],
) -> str:
    """Return a whole page: its head with links to the parts, and the parts that there are.

    Parameters
    ----------
    heading : str
        What the page is about.
    kicker : sequence of str
        What kind of page it is and by which rules, above the heading.
    title : str
        Of the window.
    sections : mapping of str to Markup or None
        By the id of each, in order; None is left out.
    links : mapping of str to str
        The words of the links by the id of the section they lead to.
    data : mapping of str to object
        JSON blocks by the id under which they are found.
    """
    there = [tag("a", words, href=f"#{key}") for key, words in links.items() if sections.get(key)]
    header = tag(
        "header",
        tag("p", " · ".join(kicker), class_="kicker"),
        tag("h1", heading),
        tag("nav", there, aria_label="Parts of this page"),
    )
    return document(title, (header, tag("main", sections.values())), data)


def document(title: str, body: Child, data: Mapping[str, object]) -> str:
    """Return a whole page that needs nothing from outside itself.

    Parameters
    ----------
    title : str
        Of the window.
    body : str or iterable of str
        What is seen.
    data : mapping of str to object
        JSON blocks by the id under which they are found.

    Notes
    -----
    The content-security policy allows exactly the one style sheet and the one script that are in
    the page, by their hashes, so that no name from a file could run even if it got in as markup.
    """
    style, script = _resource("style.css"), _resource("page.js")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"style-src '{_digest(style)}'",
            f"script-src '{_digest(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="referrer", content="no-referrer"),
        tag("title", title),
        tag("style", Markup(style)),
    ]
    blocks = [
        tag("script", Markup(json_text(content)), type="application/json", id=key)
        for key, content in data.items()
    ]
    page = tag(
        "html",
        tag("head", head),
        tag("body", body, blocks, tag("script", Markup(script))),
        lang=LANGUAGE,
    )
    return f"<!doctype html>\n{page}\n"


def json_text(content: object) -> str:
    r"""Return JSON that no HTML parser takes for markup, whatever its strings hold.

    Examples
    --------
    >>> json_text({"name": "</script>"})
    '{"name":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    return text.replace("<", r"\u003c").replace(">", r"\u003e").replace("&", r"\u0026")


def _resource(name: str) -> str:
    return resources.files("spectra.reports.html").joinpath(name).read_text("utf-8").strip()


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"sha256-{base64.b64encode(digest).decode('ascii')}"
