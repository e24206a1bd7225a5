"""`cais completion`: scripts for bash, zsh and fish, made from the command table."""

from __future__ import annotations

import sys

from cais.cli.commands import GROUPS, SHORT
from cais.cli.failure import Failure
from cais.cli.flags import Command
from cais.cli.help import list_verbs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from cais.cli.flags import Flags
    from cais.cli.session import Session

_CONTAINER_VERBS = (
    "attach diff exec explain export inspect kill logs pause port rename restart rm start stop top unpause "
    "wait"
)
_IMAGE_VERBS = "create history rmi run save tag"


def completion(session: Session, flags: Flags) -> int:
    """Print the script that completes verbs, flags, containers and images in a shell."""
    makers = {"bash": format_bash, "zsh": format_zsh, "fish": format_fish}
    if flags.args[0] not in makers:
        raise Failure(f"unknown shell {flags.args[0]}: choose bash, zsh or fish")
    sys.stdout.write(makers[flags.args[0]]())
    return 0


def list_words() -> dict[str, list[str]]:
    """What may follow: verbs after nothing, second words after a group, flags after a verb."""
    verbs = dict(list_verbs())
    names = [*verbs, *SHORT]
    words = {"": sorted({name.partition(" ")[0] for name in names} | set(GROUPS))}
    for group in GROUPS:
        words[group] = sorted(name.partition(" ")[2] for name in names if name.startswith(f"{group} "))
    for name, command in verbs.items():
        flags = [f"--{row[0]}" for row in command.flags if row[3]]
        flags += [f"-{row[1]}" for row in command.flags if row[1]]
        words[name] = [*flags, "--help"]
    for name, to in SHORT.items():
        words[name] = words[to]
    return words


def format_bash() -> str:
    """A bash function and its registration."""
    cases = "".join(f"    '{name}') words='{' '.join(found)}';;\n" for name, found in list_words().items())
    groups = "|".join(GROUPS)
    return f"""# bash completion for cais: source it, or put it into /etc/bash_completion.d
_cais() {{
  local word=${{COMP_WORDS[COMP_CWORD]}} verb= words= i
  for ((i = 1; i < COMP_CWORD; i++)); do
    case ${{COMP_WORDS[i]}} in
    -H|--host) ((i++));;
    -*) ;;
    *) if [[ -z $verb ]]; then verb=${{COMP_WORDS[i]}}
       elif [[ $verb =~ ^({groups})$ ]]; then verb="$verb ${{COMP_WORDS[i]}}"; break
       else break; fi;;
    esac
  done
  case $verb in
{cases}  esac
  if [[ $word != -* ]]; then
    case $verb in
    {_CONTAINER_VERBS.replace(" ", "|")}) words=$(cais ps -a --format '{{{{.Names}}}}' 2>/dev/null);;
    {_IMAGE_VERBS.replace(" ", "|")}) words=$(cais images --format '{{{{.Repository}}}}:{{{{.Tag}}}}' 2>/dev/null);;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  __ltrim_colon_completions "$word" 2>/dev/null || true
}}
complete -o default -F _cais cais
"""


def format_zsh() -> str:
    """The same function, through zsh's bash compatibility."""
    head = "#compdef cais\n# zsh completion for cais: source it from .zshrc\n"
    head += "autoload -U +X bashcompinit && bashcompinit\n"
    return head + format_bash().partition("\n")[2]


def format_fish() -> str:
    """One `complete` line for each verb and flag."""
    lines = ["# fish completion for cais: put it into ~/.config/fish/completions/cais.fish"]
    verbs = dict(list_verbs())
    tops = " ".join(sorted({name.partition(" ")[0] for name in verbs} | set(GROUPS)))
    for group, summary in GROUPS.items():
        lines.append(f"complete -c cais -f -n __fish_use_subcommand -a {group} -d '{summary}'")
    for name, command in verbs.items():
        first, _, second = name.partition(" ")
        summary = command.summary.replace("'", "\\'")
        if second:
            alone = f"__fish_seen_subcommand_from {first}"
            lines.append(f"complete -c cais -f -n '{alone}' -a {second} -d '{summary}'")
            where = f"{alone}; and __fish_seen_subcommand_from {second}"
        else:
            lines.append(
                f"complete -c cais -f -n 'not __fish_seen_subcommand_from {tops}' -a {name} -d '{summary}'"
            )
            where = f"__fish_seen_subcommand_from {name}"
        for flag, short, kind, text in command.flags:
            if text:
                value = "" if kind == "bool" or kind.startswith("[=") else " -r"
                letter = f" -s {short}" if short else ""
                quoted = text.replace("'", "\\'")
                lines.append(f"complete -c cais -n '{where}' -l {flag}{letter}{value} -d '{quoted}'")
    names = "(cais ps -a --format '{{.Names}}' 2>/dev/null)"
    lines.append(f"complete -c cais -f -n '__fish_seen_subcommand_from {_CONTAINER_VERBS}' -a \"{names}\"")
    return "\n".join(lines) + "\n"


COMPLETION = Command(
    "completion bash|zsh|fish",
    "Print a completion script for a shell",
    completion,
    least=1,
    most=1,
    example="source <(cais completion bash)",
)
