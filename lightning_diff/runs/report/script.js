"use strict";
// Plots are drawn when they come near the screen, in the page's colours; samples are shown one at a time.
(() => {
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const axis = () => ({ gridcolor: colour("--line"), linecolor: colour("--line"), zerolinecolor: colour("--line") });
  const theme = (layout) => ({
    ...layout,
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--weak"), activecolor: colour("--text") },
    font: { family: "system-ui, sans-serif", size: 12, color: colour("--text") },
    xaxis: { ...layout.xaxis, ...axis(), automargin: true },
    yaxis: { ...layout.yaxis, ...axis(), automargin: true },
  });
  // No button that opens a site: nothing of a run leaves the page.
  const config = { responsive: true, displaylogo: false, showSendToCloud: false, plotlyServerURL: "" };
  const drawn = new Map();
  const draw = (plot) => {
    if (drawn.has(plot)) return;
    const figure = JSON.parse(plot.parentElement.querySelector("script").textContent);
    drawn.set(plot, figure);
    plot.replaceChildren();
    Plotly.newPlot(plot, figure.data, theme(figure.layout), config);
  };
  const plots = [...document.querySelectorAll(".plot")];
  if ("IntersectionObserver" in window) {
    const near = new IntersectionObserver(
      (entries) => entries.filter((entry) => entry.isIntersecting).forEach((entry) => draw(entry.target)),
      { rootMargin: "400px" },
    );
    plots.forEach((plot) => near.observe(plot));
  } else plots.forEach(draw);
  window.addEventListener("beforeprint", () => plots.forEach(draw));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    drawn.forEach((figure, plot) => Plotly.react(plot, figure.data, theme(figure.layout), config)),
  );
  for (const slider of document.querySelectorAll(".slider")) {
    const control = slider.querySelector("input");
    const cells = [...slider.querySelectorAll(".one")];
    const show = () => cells.forEach((cell, number) => (cell.hidden = number !== Number(control.value)));
    control.addEventListener("input", show);
    show();
  }
})();
