"""`aquasim explore`: a page on this machine whose sliders rerun a scenario."""

from typing import TYPE_CHECKING, Annotated

import typer

from aquasim.cli.options import SetOption
from aquasim.errors import UserError

if TYPE_CHECKING:
    from aquasim.explore.session import Session


def explore(
    scenario: Annotated[
        str, typer.Argument(metavar="[SCENARIO]", help="A scenario's name, or a TOML file.")
    ] = "small-h100",
    set_: SetOption = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
) -> None:
    """Turn a small scenario's quantities in a browser and see what that does, about a second later."""
    from aquasim.explore.session import Session

    session = Session(scenario, tuple(set_ or []))
    try:
        _serve(session, port, no_browser)
    finally:
        session.workers.close()


def _serve(session: "Session", port: int, no_browser: bool) -> None:
    """Serve until SIGINT or SIGTERM."""
    import signal
    from threading import Event, Thread

    from aquasim.explore.server import HOST, Server

    try:
        server = Server(session, port)
    except OSError as error:
        raise UserError(f"--port {port}: {HOST} cannot be listened at: {error.strerror}") from None
    ended = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    print(server.url, flush=True)
    if not no_browser:
        _open(server.url)
    ended.wait()
    server.shutdown()
    server.server_close()


def _open(url: str) -> None:
    """Show the page, if there is a browser; one that runs in a terminal must not hold the server up."""
    import webbrowser
    from threading import Thread

    Thread(target=webbrowser.open, args=(url,), daemon=True).start()
