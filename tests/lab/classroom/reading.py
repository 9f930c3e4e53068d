"""Accessibility, measured in a page: names, contrast, focus, size. Expressions for a browser."""

from __future__ import annotations

from typing import Any, Final

from tests.browser import Page

ROLES: Final = frozenset(
    {"button", "textbox", "combobox", "slider", "checkbox", "radio", "link", "listbox"}
)

LOW_CONTRAST: Final = r"""(() => {
  const numbers = (text) => text.match(/[\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const part = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b);
  };
  const over = ([r, g, b, a = 1], under) =>
    [r, g, b].map((v, i) => v * a + under[i] * (1 - a));
  const contrast = (one, other) => {
    const [a, b] = [luminance(one), luminance(other)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  // All colours that may lie behind an element: of a gradient, each of its stops.
  const behind = (element) => {
    if (!element) return [[255, 255, 255]];
    const style = getComputedStyle(element), own = numbers(style.backgroundColor);
    const stops = (style.backgroundImage.match(/rgba?\([^)]*\)/g) ?? []).map(numbers);
    const solid = own[3] !== 0 && (own[3] ?? 1) === 1;
    const below = solid ? [] : behind(element.parentElement);
    const grounds = solid ? [own.slice(0, 3)] : below.map((c) => over(own, c));
    return stops.length ? stops.flatMap((stop) => grounds.map((c) => over(stop, c))) : grounds;
  };
  const opacity = (element) =>
    element ? Number(getComputedStyle(element).opacity) * opacity(element.parentElement) : 1;
  const skipped = "script, style, noscript, option, :disabled, :disabled *";
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const element = node.parentElement, text = node.textContent.trim();
    if (!text || element.matches(skipped)) continue;
    const box = element.getBoundingClientRect(), style = getComputedStyle(element);
    if (!box.width || !box.height || style.visibility === "hidden") continue;
    const colour = numbers(style.color), alpha = (colour[3] ?? 1) * opacity(element);
    const worst = Math.min(...behind(element).map((ground) =>
      contrast(over([...colour.slice(0, 3), alpha], ground), ground)));
    if (worst < 4.5) found.push(`${text}: ${worst.toFixed(2)} (${element.className})`);
  }
  return [...new Set(found)];
})()"""
"""The texts that can hardly be read, each with its contrast."""

SMALL_TARGETS: Final = """[...document.querySelectorAll('button, input, select, a')]
  .map((element) => [element.textContent || element.name, element.getBoundingClientRect()])
  .filter(([, box]) => box.width && (box.width < 44 || box.height < 44))
  .map(([name, box]) => `${name}: ${box.width} x ${box.height}`)"""
"""What a finger hardly hits."""

TOO_WIDE: Final = "document.scrollingElement.scrollWidth - innerWidth"
"""How far the page scrolls sideways."""

FOCUSED: Final = """(() => {
  const element = document.activeElement;
  if (!element || element === document.body) return null;
  const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(element);
  const name = element.getAttribute("aria-label") || element.textContent || element.name;
  return [name, outlineStyle !== "none" && parseFloat(outlineWidth) >= 2 || boxShadow !== "none"];
})()"""
"""What has the focus, and whether that can be seen."""

FOCUSABLE: Final = """[...document.querySelectorAll(
  'button:enabled, input:enabled, select:enabled, a[href], [tabindex="0"]')]
  .filter((element) => element.getClientRects().length).length"""


async def unnamed(page: Page) -> list[str]:
    """Return the controls that assistive technology has no name for."""
    nodes = (await page.call("Accessibility.getFullAXTree"))["nodes"]
    return [
        str(node.get("backendDOMNodeId"))
        for node in nodes
        if not node.get("ignored")
        and node.get("role", {}).get("value") in ROLES
        and not _text(node, "name").strip()
    ]


def _text(node: dict[str, Any], of: str) -> str:
    return str(node.get(of, {}).get("value", ""))


async def reached_by_tab(page: Page, most: int) -> list[tuple[str, bool]]:
    """Press Tab until the focus is where it began; return each stop, and whether it is seen."""
    stops: list[tuple[str, bool]] = []
    # Where Tab goes from is where the focus was last, also after a blur.
    await page.value("document.body.tabIndex = -1; document.body.focus()")
    await page.value("document.body.removeAttribute('tabindex')")
    for _ in range(most):
        await page.key("Tab", windows=9)
        stop = await page.value(FOCUSED)
        if stop is None:
            break
        stops.append((str(stop[0]), bool(stop[1])))
    return stops
