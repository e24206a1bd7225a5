"""Names of owners, looked up in an image's own /etc/passwd and /etc/group."""

from cais.build.tree import Tree, resolve
from cais.errors import Invalid
from cais.runtime.users import LIMIT, find_group, find_identity
from cais.store.layers import tar

Owner = tuple[int, int]


def find_owner(text: str, tree: Tree) -> Owner:
    """uid and gid of ``[user][:group]``, names or numbers. A number alone is both; a name brings its own group; without
    a user it is root. Raises Invalid for a name that the image does not know."""
    user, colon, group = text.partition(":")
    if not user and group:
        user = "0"
    if not user:
        raise Invalid(f"invalid user {text!r}: write user[:group]")
    passwd, groups = _read_table(tree, b"etc/passwd"), _read_table(tree, b"etc/group")
    try:
        if colon and group:
            return find_identity(user, [], passwd, groups).uid, find_group(group, groups)
        known = any(row[0] == user for row in passwd)
        if user.isascii() and user.isdecimal() and not known:
            uid = find_identity(user, [], [], []).uid
            return uid, uid
        identity = find_identity(user, [], passwd, groups)
    except ValueError as error:
        raise Invalid(str(error)) from error
    return identity.uid, identity.gid


def _read_table(tree: Tree, path: bytes) -> list[list[str]]:
    real = resolve(tree.look, path)
    node = tree.look(real)
    if node is None or node.kind != tar.REGULAR or node.size > LIMIT:
        return []
    text = b"".join(tree.read(real)).decode("utf-8", "surrogateescape")
    return [line.split(":") for line in text.splitlines() if line and not line.startswith("#")]
