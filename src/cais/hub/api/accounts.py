"""Accounts and passwords: one's own, and everybody's for administrators; and the tokens that they keep."""

from cais.errors import Denied, NotFound, Unauthenticated
from cais.hub.accounts import Account as Row
from cais.hub.api.answers import Account, AccountList, Token, TokenList, TokenMade, as_time
from cais.hub.api.services import Ask
from cais.hub.kepttokens import Token as TokenRow


async def sign_up(ask: Ask) -> Account:
    """``POST /signup``."""
    body = ask.body
    made = await ask.services.people.accounts.sign_up(body.name, body.password, body.code, ask.caller.address)
    return describe(made)


async def get_own(ask: Ask) -> Account:
    """``GET /account``: who the caller is."""
    if not ask.caller.account:
        raise NotFound("this hub is open: nobody has an account")
    return describe(ask.services.people.accounts.get(ask.caller.account))


async def change_own_password(ask: Ask) -> None:
    """``PUT /account/password``."""
    caller = ask.caller
    if caller.kind == "token":
        raise Denied("a password is changed by who logs in with it")
    try:
        await ask.services.people.logins.login(caller.account, ask.body.current, caller.address, tokens=False)
    except Unauthenticated:
        raise Denied("the current password is wrong") from None
    await ask.services.people.accounts.change_password(caller.account, ask.body.password, caller)


async def list_accounts(ask: Ask) -> AccountList:
    """``GET /accounts``."""
    count = ask.query["n"]
    rows = ask.services.people.accounts.list_accounts(ask.query["last"], count + 1)
    return AccountList(
        accounts=[describe(row) for row in rows[:count]],
        next=rows[count - 1].name if len(rows) > count else "",
    )


async def make_account(ask: Ask) -> Account:
    """``POST /accounts``."""
    body = ask.body
    return describe(
        await ask.services.people.accounts.add(body.name, body.password, ask.caller, admin=body.admin)
    )


async def get_account(ask: Ask) -> Account:
    """``GET /accounts/{account}``: one's own, or any for administrators. Raises Denied alike for all others."""
    name = ask.path["account"]
    if name != ask.caller.account and (not ask.caller.admin or ask.caller.grants is not None):
        raise Denied("only an administrator of the hub may do this")
    return describe(ask.services.people.accounts.get(name))


async def change_account(ask: Ask) -> Account:
    """``PATCH /accounts/{account}``: let it log in, or not any more."""
    name = ask.path["account"]
    await ask.services.people.accounts.disable(name, ask.caller, disabled=ask.body.disabled)
    return describe(ask.services.people.accounts.get(name))


async def reset_password(ask: Ask) -> None:
    """``PUT /accounts/{account}/password``."""
    await ask.services.people.accounts.change_password(ask.path["account"], ask.body.password, ask.caller)


async def list_tokens(ask: Ask) -> TokenList:
    """``GET /tokens``."""
    found = ask.services.people.tokens.list_tokens(_owner(ask))
    return TokenList(tokens=[_describe_token(token) for token in found])


async def make_token(ask: Ask) -> TokenMade:
    """``POST /tokens``."""
    body = ask.body
    token, secret = await ask.services.people.tokens.add(
        ask.caller.account, body.name, body.scopes, body.seconds, ask.caller
    )
    return TokenMade(token=_describe_token(token), secret=secret)


async def delete_token(ask: Ask) -> None:
    """``DELETE /tokens/{id}``."""
    await ask.services.people.tokens.remove(_owner(ask), ask.path["id"], ask.caller)


def _owner(ask: Ask) -> str:
    """Whose tokens: the caller's, or whoever an administrator names (a robot has none to ask for it)."""
    name: str = ask.query["account"] or ask.caller.account
    if name != ask.caller.account and not ask.caller.admin:
        raise Denied("only an administrator of the hub may do this")
    return name


def describe(row: Row) -> Account:
    """An account, without its password's hash."""
    return Account(
        name=row.name,
        kind="robot" if row.kind == "robot" else "person",
        admin=row.admin,
        disabled=row.disabled,
        created=as_time(row.created_ns),
    )


def _describe_token(token: TokenRow) -> Token:
    return Token(
        id=token.id,
        name=token.name,
        account=token.account,
        scopes=list(token.scopes),
        created=as_time(token.created_ns),
        used=as_time(token.used_ns),
        expires=as_time(token.expires_ns),
    )
