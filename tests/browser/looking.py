"""What a test does with a page: open it at a size and in a mode, wait for its figures, read pixels."""

import time
from pathlib import Path
from typing import Any

PHONE, DESKTOP = (390, 844), (1280, 900)

SEEN = """
const image = arguments[0], rows = arguments[1], columns = arguments[2];
const width = image.naturalWidth || image.width, height = image.naturalHeight || image.height;
const copy = new OffscreenCanvas(width, height).getContext('2d');
copy.drawImage(image, 0, 0);
const data = copy.getImageData(0, 0, width, height).data;
const at = (x, y) => 4 * (y * width + x);
const differs = (i) => [0, 1, 2, 3].reduce((sum, c) => sum + Math.abs(data[i + c] - data[c]), 0) > 60;
const colors = new Set(), grid = [];
let light = 0, count = 0, box = [width, height, 0, 0];
for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
  const i = at(x, y);
  if (!differs(i)) continue;
  colors.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
  light += data[i] + data[i + 1] + data[i + 2];
  count++;
  box = [Math.min(box[0], x), Math.min(box[1], y), Math.max(box[2], x), Math.max(box[3], y)];
}
for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) {
  const [x0, x1] = [c, c + 1].map((k) => Math.round(box[0] + (k / columns) * (box[2] - box[0])));
  const [y0, y1] = [r, r + 1].map((k) => Math.round(box[1] + (k / rows) * (box[3] - box[1])));
  let ink = 0;
  for (let y = y0; y < y1; y++) for (let x = x0; x < x1; x++) ink += differs(at(x, y));
  grid.push(ink / Math.max(1, (x1 - x0) * (y1 - y0)));
}
return { width, height, colors: colors.size, light: light / (3 * Math.max(1, count)), ink: count, grid };
"""


def look(
    driver: Any, page: Path, size: tuple[int, int] = DESKTOP, mode: str = "light", whole: bool = True
) -> None:
    """Open a page; with `whole`, in a window so tall that every figure is drawn."""
    turn(driver, mode)
    resize(driver, size)
    driver.get(page.as_uri())
    if whole:
        height = driver.execute_script("return document.documentElement.scrollHeight")
        resize(driver, (size[0], height + 1500))
        drawn(driver)


def turn(driver: Any, mode: str) -> None:
    """Prefer light or dark."""
    features = [{"name": "prefers-color-scheme", "value": mode}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def resize(driver: Any, size: tuple[int, int]) -> None:
    """Set the window's size, a phone's where it is narrow."""
    width, height = size
    shape = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", shape)


def drawn(driver: Any) -> None:
    """Wait until every figure is drawn."""
    until(driver, "return [...document.querySelectorAll('.plot')].every(e => e.dataset.drawn)")


def until(driver: Any, script: str, seconds: float = 20.0) -> Any:
    """Wait for a script to return something true; returns that."""
    end = time.monotonic() + seconds
    while True:
        value = driver.execute_script(script)
        if value or time.monotonic() > end:
            assert value, f"not within {seconds} s: {script}"
            return value
        time.sleep(0.05)


def seen(driver: Any, image: Any, rows: int = 8, columns: int = 12) -> dict[str, Any]:
    """Return what a canvas or an image shows: its size, colours, brightness, and its ink in a coarse grid."""
    found: dict[str, Any] = driver.execute_script(SEEN, image, rows, columns)
    return found


def contrast(one: str, other: str) -> float:
    """Return WCAG's contrast of two CSS colours `rgb(r, g, b)`."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [float(part) / 255 for part in color[color.index("(") + 1 : -1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
