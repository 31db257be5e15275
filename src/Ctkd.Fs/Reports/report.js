// Curves that answer: the point nearest to the pointer, or chosen by the arrow keys; legends that hide and show runs.
(() => {
  "use strict";
  // "1..240" counts up by one, "0.05*60" repeats.
  const numbers = (text) =>
    text.split(" ").filter(Boolean).flatMap((part) => {
      const [value, times] = part.split("*").map(Number);
      if (times) return Array(times).fill(value);
      const [first, last] = part.split("..").map(Number);
      return last === undefined ? [first] : Array.from({ length: last - first + 1 }, (_, i) => first + i);
    });

  const element = (tag, text = "") => Object.assign(document.createElement(tag), { textContent: text });
  const set = (target, values) => Object.entries(values).forEach(([key, value]) => target.setAttribute(key, value));
  const [charts, hidden] = [[], new Set()];
  let chosen = null;
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  set(mark, { r: 4.5 });
  const tip = element("div");
  set(tip, { class: "tip", role: "status", hidden: "" });
  document.body.append(tip);
  const hide = () => {
    chosen?.group.classList.remove("chosen");
    chosen = null;
    mark.remove();
    tip.hidden = true;
  };

  const show = (chart, curve, i) => {
    hide();
    const { svg, xName, yName } = chart;
    set(mark, { class: `spot ${curve.group.classList[1]}`, cx: curve.across[i], cy: curve.down[i] });
    svg.append(mark);
    chosen = curve;
    curve.at = i;
    curve.group.classList.add("chosen");

    const value = (name, number) => element("div", name ? `${name}: ${number}` : number);
    tip.replaceChildren(element("b", curve.run), value(xName, curve.x[i]), value(yName, curve.y[i]));
    tip.hidden = false;

    const at = new DOMPoint(curve.across[i], curve.down[i]).matrixTransform(svg.getScreenCTM());
    const { left, right } = svg.parentElement.getBoundingClientRect();
    const above = at.y - tip.offsetHeight - 12;
    tip.style.left = `${scrollX + Math.max(left, Math.min(at.x - tip.offsetWidth / 2, right - tip.offsetWidth))}px`;
    tip.style.top = `${scrollY + (above > 0 ? above : at.y + 12)}px`;
  };

  const visible = (chart) => chart.curves.filter((curve) => curve.x.length > 0 && !hidden.has(curve.run));

  // Of equally near points the last one, which is drawn on top.
  const follow = (chart, event) => {
    const { left, top, width, height } = chart;
    const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(chart.svg.getScreenCTM().inverse());
    let nearest = hide, least = Infinity;
    for (const curve of visible(chart)) {
      for (let i = 0; i < curve.x.length; i++) {
        const distance = (curve.across[i] - x) ** 2 + (curve.down[i] - y) ** 2;
        if (distance <= least) [least, nearest] = [distance, () => show(chart, curve, i)];
      }
    }
    const inside = Math.abs(x - left - width / 2) < width / 2 + 12 && Math.abs(y - top - height / 2) < height / 2 + 12;
    (inside ? nearest : hide)();
  };

  // Of several elements the tabulator key reaches one, and the arrow keys the others.
  const rove = (all, first) => all.forEach((one) => set(one, { tabindex: one === first ? 0 : -1 }));
  const neighbour = (list, item, by) => list[(list.indexOf(item) + by + list.length) % list.length];
  const groups = (curves) => curves.map((curve) => curve.group);

  const update = (chart) => {
    chart.curves.forEach((curve) => curve.group.classList.toggle("off", hidden.has(curve.run)));
    chart.keys.forEach((key) => set(key, { "aria-pressed": !hidden.has(key.dataset.run) }));
    const shown = visible(chart);
    rove(groups(chart.curves), shown[0]?.group);
    chart.svg.classList.toggle("lone", shown.length === 1);
  };

  const toggle = (run) => {
    if (!hidden.delete(run)) hidden.add(run);
    hide();
    charts.forEach(update);
  };

  const onKeys = (target, actions) =>
    target.addEventListener("keydown", (event) => {
      if (!Object.hasOwn(actions, event.key)) return;
      event.preventDefault();
      actions[event.key]();
    });

  // A title would show as a second label at the pointer.
  const name = (target, role) => {
    const title = target.querySelector(":scope > title");
    set(target, { role, "aria-label": title.textContent });
    title.remove();
  };

  const addCurve = (chart, group) => {
    const place = (range, from, length, values) => {
      const [low, high] = range.split(" ").map(Number);
      return values.map((value) => from + (length * (value - low)) / (high - low));
    };
    const [x, y] = [numbers(group.dataset.x), numbers(group.dataset.y)];
    const across = place(chart.xRange, chart.left, chart.width, x);
    const down = place(chart.yRange, chart.top + chart.height, -chart.height, y);
    const curve = { run: group.dataset.run, group, x, y, across, down, at: x.length - 1 };
    const go = (i) => show(chart, curve, Math.max(0, Math.min(x.length - 1, i)));
    const turn = (by) => neighbour(groups(visible(chart)), group, by).focus();
    chart.curves.push(curve);
    name(group, "img");
    onKeys(group, {
      ArrowLeft: () => go(curve.at - 1), ArrowRight: () => go(curve.at + 1), Home: () => go(0), End: () => go(Infinity),
      ArrowUp: () => turn(-1), ArrowDown: () => turn(1), Escape: hide,
    });
    group.onblur = hide;
    group.onfocus = () => {
      rove(groups(chart.curves), group);
      go(curve.at);
    };
  };

  const addKey = (chart, key) => {
    const change = () => toggle(key.dataset.run);
    const [back, on] = [-1, 1].map((by) => () => neighbour(chart.keys, key, by).focus());
    set(key, { role: "button" });
    key.onclick = change;
    key.onfocus = () => rove(chart.keys, key);
    onKeys(key, { Enter: change, " ": change, ArrowLeft: back, ArrowUp: back, ArrowRight: on, ArrowDown: on });
  };

  for (const svg of document.querySelectorAll("figure > svg:has(.plot[data-x-range])")) {
    const plot = svg.querySelector(".plot");
    const { x: left, y: top, width, height } = plot.getBBox();
    const chart = { svg, left, top, width, height, ...plot.dataset, curves: [], keys: [...svg.querySelectorAll(".key")] };
    charts.push(chart);
    svg.querySelectorAll(".curve").forEach((group) => addCurve(chart, group));
    chart.keys.forEach((key) => addKey(chart, key));
    rove(chart.keys, chart.keys[0]);
    name(svg, "group");
    update(chart);
    svg.onpointermove = svg.onpointerdown = (event) => follow(chart, event);
    // The focus is the keyboard's: it would move the mark to where that curve was last read.
    svg.onmousedown = (event) => event.preventDefault();
    // A finger that is lifted leaves the point to read.
    svg.onpointerleave = (event) => { if (event.pointerType === "mouse") hide(); };
  }

  document.onpointerdown = (event) => { if (!event.target.closest("figure > svg")) hide(); };
})();
