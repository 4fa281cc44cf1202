"""Plots are self-contained SVG with a legend that fits."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest
from trireme_loadtest.report.plots import WIDTH, Series, svg_file, xy_chart

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("count", [2, 8])
def test_every_name_of_the_legend_is_inside_the_plot(count: int) -> None:
    names = [f"an engine & a way {index}" for index in range(count)]
    chart = svg_file(xy_chart("Tokens", [Series(name, [(1, 2), (4, 8)]) for name in names], x_label="x", y_label="y"))
    picture = ElementTree.fromstring(chart)
    height = float(picture.attrib["viewBox"].split()[3])
    legend = {text.text: text for text in picture.iter(f"{SVG}text") if text.get("class") == "legend"}
    assert sorted(legend) == names
    for name, text in legend.items():
        assert 0 < float(text.attrib["x"]) < WIDTH - 6 * len(name)
        assert 0 < float(text.attrib["y"]) < height
    assert len({(text.attrib["x"], text.attrib["y"]) for text in legend.values()}) == count
    assert picture.find(f"{SVG}style") is not None
