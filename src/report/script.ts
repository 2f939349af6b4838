// What the page's script does: under the pointer, or with the arrow keys, a chart shows a step and the values there, read
// from its lines. Without it the page is complete but for that.

export const script = `
for (const svg of document.querySelectorAll(".plot>svg")) {
  const [low, high] = svg.dataset.x.split(" ").map(Number);
  const box = svg.parentElement, out = document.createElement("output");
  const cursor = document.createElementNS(svg.namespaceURI, "line");
  cursor.setAttribute("class", "cursor");
  cursor.setAttribute("y2", "100%");
  box.append(out);
  let lines, steps, at = -1;
  const read = () => {
    lines = [...svg.querySelectorAll("path[data-label]")].map(path => ({
      path,
      points: [...path.getAttribute("d").matchAll(/[ML]([^ ]+) ([^ML]+)/g)].map(m => [+m[1], svg.dataset.log ? 10 ** m[2] : m[2] / 10 ** (svg.dataset.power || 0)]),
    }));
    steps = [...new Set(lines.flatMap(line => line.points.map(p => p[0])))].sort((a, b) => a - b);
  };
  const text = v => Math.abs(v) >= 1e4 ? Math.round(v).toLocaleString("en-US") : String(+v.toPrecision(5));
  const show = i => {
    at = Math.max(0, Math.min(steps.length - 1, i));
    const step = steps[at], share = (step - low) / (high - low);
    cursor.setAttribute("x1", 100 * share + "%");
    cursor.setAttribute("x2", 100 * share + "%");
    svg.append(cursor);
    out.replaceChildren(Object.assign(document.createElement("b"), { textContent: "step " + step.toLocaleString("en-US") }));
    for (const { path, points } of lines) {
      if (!points.length || step < points[0][0] || step > points.at(-1)[0]) continue;
      const i = points.findIndex(p => p[0] >= step), [x1, y1] = points[i], [x0, y0] = points[Math.max(0, i - 1)];
      const value = x1 === step ? y1 : y0 + (step - x0) / (x1 - x0) * (y1 - y0);
      const row = document.createElement("div"), key = document.createElement("span");
      const line = document.querySelector(".key." + path.getAttribute("class").replace(" ", "."));
      key.className = "key";
      if (line) key.append(line.firstChild.cloneNode(true)), key.classList.add(...line.classList);
      key.append(path.dataset.label + ": " + text(value));
      row.append(key);
      out.append(row);
    }
    const left = svg.getBoundingClientRect().left - box.getBoundingClientRect().left + share * svg.clientWidth;
    out.style.left = share < .5 ? left + 10 + "px" : "auto";
    out.style.right = share < .5 ? "auto" : box.clientWidth - left + 10 + "px";
  };
  const hide = () => { cursor.remove(); out.replaceChildren(); at = -1; };
  const nearest = x => {
    const r = svg.getBoundingClientRect(), step = low + (x - r.left) / r.width * (high - low);
    let best = 0;
    steps.forEach((s, i) => { if (Math.abs(s - step) < Math.abs(steps[best] - step)) best = i; });
    return best;
  };
  svg.addEventListener("pointermove", e => { lines || read(); show(nearest(e.clientX)); });
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", e => {
    lines || read();
    const to = { ArrowLeft: Math.max(0, at - 1), ArrowRight: at + 1, Home: 0, End: steps.length - 1 }[e.key];
    if (e.key === "Escape") hide();
    if (to !== undefined) e.preventDefault(), show(to);
  });
}
`;
