"""Which tags go by themselves, in words and as a form; for repositories and namespaces."""

import msgspec

from cais.errors import Invalid
from cais.hub.pages.visit import Visit
from cais.registry.retention import Retention, Rule, format_retention, parse_retention

_DAYS_MAX = 36_500


def describe_rule(rule: Rule) -> str:
    """A rule as a sentence."""
    who = "all tags" if rule.include == ("*",) else f"tags like {' or '.join(rule.include)}"
    who += f", but not {' or '.join(rule.exclude)}" if rule.exclude else ""
    if not rule.removes:
        return f"Of {who}: keep every one."
    ages = []
    if rule.pushed_days:
        ages.append(f"pushed more than {rule.pushed_days:g} days ago")
    if rule.pulled_days:
        ages.append(f"not used for {rule.pulled_days:g} days")
    kept = f", except the newest {rule.keep_last}" if rule.keep_last else ""
    return f"Of {who}: remove those {' and '.join(ages)}{kept}." if ages else f"Of {who}: remove all{kept}."


def read_change(visit: Visit, before: Retention) -> dict[str, object]:
    """The rules that a form of the settings page makes of those there are: one more, or one less. Raises Invalid."""
    rules = list(before.rules)
    gone = visit.field("remove")
    if gone:
        if not gone.isdecimal() or len(gone) > 4 or int(gone) >= len(rules):
            raise Invalid("no such rule: load the page again")
        del rules[int(gone)]
    else:
        rules.append(_read_rule(visit))
    if not rules:
        return {}
    after = parse_retention(format_retention(Retention(tuple(rules))))
    found = msgspec.to_builtins(after)
    assert isinstance(found, dict)
    return found


def _read_rule(visit: Visit) -> Rule:
    return Rule(
        include=tuple(visit.field("include").split()) or ("*",),
        exclude=tuple(visit.field("exclude").split()),
        keep_last=_number(visit, "keep", 1_000_000),
        pushed_days=_number(visit, "pushed", _DAYS_MAX),
        pulled_days=_number(visit, "pulled", _DAYS_MAX),
    )


def _number(visit: Visit, name: str, most: int) -> int:
    text = visit.field(name).strip() or "0"
    if not text.isascii() or not text.isdigit() or len(text) > 7 or int(text) > most:
        raise Invalid(f"want a number up to {most}, or nothing")
    return int(text)
