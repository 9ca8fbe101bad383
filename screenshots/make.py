"""Makes the pictures of this folder from the real application on real processes: `sudo python screenshots/make.py`.

Runs itself in a pid and host-name namespace of its own, where it starts a few servers, so that the pictures show the
same on every machine and nothing of the one they were made on. Needs root, unshare, and cairosvg for the PNGs.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SIZE = (120, 34)
HISTORY = ("cat > /srv/cores/{comm}.{time}", "zstd -3 | ssh backup 'cat > {host}.{comm}.{pid}.zst'")
SERVICE = """
import java.util.*;
public class OrderService {
    public static void main(String[] arguments) throws Exception {
        List<byte[]> orders = new ArrayList<>();
        Random random = new Random(1);
        for (int count = 0; count < 3000; count++) {
            byte[] order = new byte[100_000];
            random.nextBytes(order);
            orders.add(order);
        }
        for (int worker = 0; worker < 24; worker++) {
            Thread thread = new Thread(() -> {
                for (;;) { try { Thread.sleep(20); } catch (Exception e) { return; } }
            });
            thread.setName("worker-" + worker);
            thread.start();
        }
        for (;;) { Thread.sleep(20); orders.get(random.nextInt(3000))[0]++; }
    }
}
"""


def in_own_namespaces() -> None:
    """Start again as the first process of new pid, mount and host-name namespaces."""
    if os.environ.get("COREPIPE_SCREENSHOTS") != "inside":
        environment = {**os.environ, "COREPIPE_SCREENSHOTS": "inside"}
        # names without a folder: the pictures show command lines
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        command = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "python3", "screenshots/make.py"]
        sys.exit(subprocess.run(command, env=environment, cwd=HERE.parent, check=False).returncode)
    socket.sethostname("shop-3")


def start_servers(folder: Path) -> tuple[list[subprocess.Popen[bytes]], int]:
    """Start what the pictures show; return all processes and the pid of the one that is dumped."""
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": folder}
    started = []

    def start(*command: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, **quiet)  # type: ignore[call-overload]
        started.append(process)
        return process  # type: ignore[no-any-return]

    start("python3", "-m", "http.server", "8089", "--bind", "127.0.0.1")
    start("python3", "-c", "import time; cache = bytearray(180 << 20); time.sleep(3600)")
    start("tail", "-f", "/dev/null")
    if shutil.which("javac"):
        (folder / "OrderService.java").write_text(SERVICE)
        subprocess.run(["javac", "OrderService.java"], cwd=folder, check=True)
        main = start("java", "-Xms64m", "-Xmx2g", "OrderService")
    else:
        main = start("python3", "-c", "import time; cache = bytearray(400 << 20); time.sleep(3600)")
    time.sleep(4)
    return started, main.pid


class Camera:
    """Saves the screen as SVG and PNG."""

    def __init__(self, app) -> None:
        self.app = app

    def take(self, name: str) -> None:
        """Save the screen as it is now."""
        import cairosvg

        svg = self.app.export_screenshot(title="corepipe-tui")
        (HERE / f"{name}.svg").write_text(svg)
        local = svg.replace(
            "Fira Code", "DejaVu Sans Mono"
        )  # the SVG names a web font; PNGs are drawn with what is here
        cairosvg.svg2png(bytestring=local.encode(), write_to=str(HERE / f"{name}.png"), output_width=1400)
        print(f"screenshots/{name}.svg, .png")


async def until(condition) -> None:
    """Wait for the screen to get there."""
    for _ in range(600):
        if condition():
            return
        await asyncio.sleep(0.02)
    raise TimeoutError


async def photograph(pid: int) -> None:
    """Walk through the application and save each screen."""
    from corepipe_tui.app import CorepipeApp, Settings
    from corepipe_tui.screens.dump import DumpScreen
    from corepipe_tui.screens.help import HelpScreen
    from corepipe_tui.screens.regions import RegionsScreen
    from corepipe_tui.screens.result import ResultScreen
    from corepipe_tui.widgets.clock import StopClock
    from corepipe_tui.widgets.listing import Listing

    app = CorepipeApp(Settings(refresh_seconds=0.5))
    camera = Camera(app)
    async with app.run_test(size=SIZE) as pilot:
        await until(lambda: app.screen.query_one("#processes", Listing).rows)
        await asyncio.sleep(1.5)
        app.screen.query_one("#processes", Listing).move_to(pid)
        await asyncio.sleep(0.5)
        await pilot.pause()
        camera.take("processes")
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, RegionsScreen) and app.screen.selection)
        await asyncio.sleep(0.5)
        await pilot.press("down", "down", "space")
        await asyncio.sleep(0.4)
        camera.take("regions")
        await pilot.press("g")
        await pilot.pause()
        camera.take("grouped")
        await pilot.press("g", "p", "up")
        await asyncio.sleep(0.5)
        camera.take("pipe")
        app.screen.query_one("#pipe").value = "zstd -9 -T1 > core.{comm}.{pid}.zst"
        await asyncio.sleep(0.3)
        await pilot.press("enter")
        await until(lambda: isinstance(app.screen, DumpScreen))
        await until(lambda: app.screen.query_one(StopClock).seconds is not None)
        await asyncio.sleep(2.5)
        if isinstance(app.screen, DumpScreen):
            camera.take("dump")
        await until(lambda: isinstance(app.screen, ResultScreen))
        await asyncio.sleep(0.3)
        camera.take("result")
        await pilot.press("enter", "question_mark")
        await until(lambda: isinstance(app.screen, HelpScreen))
        await pilot.pause()
        camera.take("help")
        await pilot.press("escape", "ctrl+p", *"preset")
        await asyncio.sleep(1.0)
        camera.take("palette")


def main() -> None:
    """Make all pictures."""
    in_own_namespaces()
    sys.path.insert(0, str(HERE.parent))
    from corepipe_tui.store import Store

    with tempfile.TemporaryDirectory(prefix="shop-") as name:
        folder = Path(name)
        processes, pid = start_servers(folder)
        try:
            os.chdir(folder)
            os.environ.pop("NO_COLOR", None)
            os.environ["XDG_STATE_HOME"] = str(folder / "state")
            for command in HISTORY:
                Store(None).remember(command)
            asyncio.run(photograph(pid))
        finally:
            for process in processes:
                process.kill()
                process.wait()


if __name__ == "__main__":
    main()
