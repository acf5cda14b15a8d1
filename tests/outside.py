"""Whom a process looks for beyond itself, as Python's audit events tell."""


def host_of(event, arguments):
    """The host that an audit event is about, text or bytes; `None` for other events, or where none is named.

    Programs get its source: it stands alone.
    """
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        return arguments[1][0]
    return arguments[0] if event == "socket.getaddrinfo" else None
