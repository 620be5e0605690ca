"""The curve of an evaluation as an SVG picture, without a drawing library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_WIDTH, _HEIGHT, _LEFT, _TOP = 560, 300, 40, 20
_COLOURS = ("#1a7f37", "#0969da", "#bc4c00", "#8250df")


def picture(series: Mapping[str, Sequence[tuple[float, float | None]]]) -> str:
    """Lines of (bits, share from 0 to 1) by name → SVG; a share that there is none of is left out."""
    places = [bits for line in series.values() for bits, _ in line]
    low, high = min(places), max(places)

    def x(bits: float) -> float:
        return _LEFT + (bits - low) / (high - low) * _WIDTH

    def y(share: float) -> float:
        return _TOP + (1 - share) * _HEIGHT

    bottom = _TOP + _HEIGHT
    size = f"{_LEFT + _WIDTH + 20} {bottom + 40 + 16 * len(series)}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" font-family="sans-serif" font-size="11">',
        f'<rect x="{_LEFT}" y="{_TOP}" width="{_WIDTH}" height="{_HEIGHT}" fill="none" stroke="#888"/>',
        *(f'<text x="{_LEFT - 6}" y="{y(n / 5) + 4:.1f}" text-anchor="end">{n / 5:.1f}</text>' for n in range(6)),
        *(f'<text x="{x(b):.1f}" y="{bottom + 14}" text-anchor="middle">{b:g}</text>' for b in sorted(set(places))),
        f'<text x="{_LEFT + _WIDTH}" y="{bottom + 28}" text-anchor="end">threshold of automatic matches, bits</text>',
    ]
    for number, (name, line) in enumerate(series.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        points = " ".join(f"{x(bits):.1f},{y(share):.1f}" for bits, share in line if share is not None)
        parts += [
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>',
            f'<text x="{_LEFT}" y="{bottom + 34 + 16 * number}" fill="{colour}">{name}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
