"""Requests made up from an OpenAPI description: such as fit it, and such as nearly do."""

from typing import Any

from hypothesis import strategies as st

TRICKS = (
    *(
        "",
        "-",
        "..",
        "../..",
        ".",
        "*",
        "%",
        "_",
        "'",
        '"',
        "\\",
        "x'; DROP TABLE accounts; --",
        "a//b",
        "/",
        "//",
    ),
    *("x/-/tags", "-/-", "team/app/-/tags/1", "team/app:1", "team/app@sha256:00", "team%2Fapp", "%2e%2e%2f"),
    *(
        "\0",
        "\n",
        "\r\nX: y",
        "\x1b[31m",
        "\u202e",
        "\ufeff",
        "ＲＯＯＴ",
        "root\0",
        "root ",
        " root",
        "ROOT",
        "ß",
        "👩‍🚀",
    ),
    *(
        "a" * 300,
        "a" * 1500,
        "a/" * 150 + "a",
        "0",
        "-1",
        "1e9",
        "99999999999999999999",
        "null",
        "true",
        "NaN",
    ),
    *("sha256:", "sha256:" + "0" * 64, "sha256:" + "0" * 63 + "G", "md5:" + "0" * 32, "latest", "cais_"),
)
"""Texts that somebody has forgotten somewhere."""
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(TRICKS),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
TEXT = st.text(max_size=30) | st.sampled_from(TRICKS)


def fitting(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that fit, as far as types, bounds and lengths go; of patterns of text most do."""
    if "$ref" in schema:
        return fitting(components[schema["$ref"].rpartition("/")[2]], components)
    if "anyOf" in schema:
        return st.one_of([fitting(each, components) for each in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        return _objects(schema, components)
    if kind == "array":
        most = min(schema.get("maxItems", 5), 5)
        items = fitting(schema.get("items", {}), components)
        return st.lists(items, min_size=schema.get("minItems", 0), max_size=most)
    if kind == "string":
        least = schema.get("minLength", 0)
        return st.text("abz019-._*/:,é ", min_size=least, max_size=min(schema.get("maxLength", 40), 40))
    if kind == "integer":
        return st.integers(schema.get("minimum"), schema.get("maximum"))
    if kind == "number":
        return st.floats(-1e6, 1e6)
    return st.booleans() if kind == "boolean" else st.none() if kind == "null" else JSON


def texts(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[str]:
    """What stands in a path or query for a value: such as fits, numbers out of all bounds, and anything."""
    fit = fitting(schema, components).map(str) | TEXT
    if schema.get("type") == "integer":
        return fit | st.sampled_from((-1, 0, 1 << 31, 1 << 63, 1 << 64, 1 << 200)).map(str)
    return fit


def _objects(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[Any]:
    properties = {name: fitting(each, components) for name, each in schema.get("properties", {}).items()}
    required = schema.get("required", [])
    return st.fixed_dictionaries(
        {name: properties[name] for name in required},
        optional={name: made for name, made in properties.items() if name not in required},
    )


def bodies(schema: dict[str, Any], components: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Bodies that fit, that have one wrong thing, and anything at all."""
    fit = fitting(schema, components)
    return fit | fit.flatmap(_spoiled) | JSON


def _spoiled(value: Any) -> st.SearchStrategy[Any]:
    if not isinstance(value, dict):
        return JSON
    names = st.sampled_from(sorted(value)) if value else st.just("x")
    return st.one_of(
        st.builds(lambda name, other: {**value, name: other}, names, JSON),
        st.builds(lambda name, other: {**value, name: other}, st.text(min_size=1, max_size=9), JSON),
        names.map(lambda gone: {name: each for name, each in value.items() if name != gone}),
    )
