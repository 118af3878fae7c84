// Draws the charts when they come into view, and joins them to the page's legends, buttons and tables.
// What is drawn is said by the Vega-Lite specifications in the page; what is in tables, by the same data.
const config = JSON.parse(document.getElementById("chart-config").textContent);

const records = ({ columns, rows }) => rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));

function prepare(figure) {
  let read; // when it is first wanted: a large study has megabytes of data
  const payload = () => {
    if (!read) {
      const { views, panel, data } = JSON.parse(figure.querySelector(".payload").textContent);
      const sets = Object.entries(data).map(([name, table]) => [name, records(table), table.columns.includes(panel)]);
      read = { views, panel, data, sets };
    }
    return read;
  };
  const alt = figure.querySelector(".alt").textContent;
  const drawn = [];
  const shown = () => [...figure.querySelectorAll(".legend input:checked")].map((box) => box.value);

  async function draw(place) {
    const { views, panel, sets } = payload();
    const value = place.dataset.panel;
    const own = Object.fromEntries(
      sets.map(([name, rows, split]) => [name, split ? rows.filter((row) => String(row[panel]) === value) : rows]),
    );
    for (const [i, element] of place.querySelectorAll(".view").entries()) {
      const description = `${place.getAttribute("aria-label") ?? ""} ${alt}`.trim();
      const specification = { ...views[i], datasets: { ...views[i].datasets, ...own }, description };
      const { view } = await vegaEmbed(element, specification, {
        mode: "vega-lite", renderer: "svg", actions: false, config, tooltip: { theme: "custom" },
      });
      if (figure.querySelector(".legend")) await view.signal("shown", shown()).runAsync();
      drawn.push(view);
      element.dataset.drawn = "true";
    }
  }

  // factor: of the range that is shown now (on a logarithmic axis, of its logarithms); 0 shows all again.
  function zoom(view, factor) {
    if (!view.getState().signals.zoom_tuple_fields) return;
    for (const { field, channel } of view.signal("zoom_tuple_fields")) {
      const scale = view.scale(channel);
      const [there, back] = scale.type === "log" ? [Math.log, Math.exp] : [(x) => x, (x) => x];
      const [low, high] = scale.domain().map((end) => there(Number(end)));
      const [middle, half] = [(low + high) / 2, ((high - low) / 2) * factor];
      const name = "zoom_" + field.replace(/\W/g, "_");
      view.signal(name, factor === 0 ? null : [back(middle - half), back(middle + half)]);
    }
    return view.runAsync();
  }

  figure.addEventListener("change", (event) => {
    if (event.target.closest(".legend")) drawn.forEach((view) => view.signal("shown", shown()).runAsync());
  });
  figure.addEventListener("click", (event) => {
    const button = event.target.closest("[data-zoom]");
    if (button) drawn.forEach((view) => zoom(view, Number(button.dataset.zoom)));
    const all = event.target.closest("[data-all]");
    if (!all) return;
    figure.querySelectorAll(".legend input").forEach((box) => { box.checked = all.dataset.all === "true"; });
    drawn.forEach((view) => view.signal("shown", shown()).runAsync());
  });

  figure.querySelectorAll("details.data").forEach((details) => {
    details.addEventListener("toggle", () => fill(details, payload().data[details.dataset.table], figure.id), { once: true });
  });
  return draw;
}

function fill(details, { columns, numeric, rows }, name) {
  const short = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4))));
  new DataTable(details.querySelector("table"), {
    data: rows,
    columns: columns.map((_, i) => ({
      className: numeric[i] ? "dt-right" : "dt-left",
      type: numeric[i] ? "num" : "string",
      render: (value, type) => (type !== "display" ? value : value === null ? "–" : numeric[i] ? short(value) : value),
    })),
    order: [],
    pageLength: 10,
    language: { search: "Filter:" },
    layout: {
      topStart: "search",
      topEnd: {
        buttons: [{
          extend: "csvHtml5", text: "Download CSV", filename: `${name}-${details.dataset.table}`,
          footer: false, exportOptions: { orthogonal: "export" }, // all digits, not those shown
        }],
      },
      bottomStart: "info",
      bottomEnd: "paging",
    },
    columnControl: ["order", ["search", "searchList"]],
    ordering: { indicators: false },
  });
}

const drawers = new Map([...document.querySelectorAll("figure")].map((figure) => [figure, prepare(figure)]));
const watcher = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      watcher.unobserve(target);
      drawers.get(target.closest("figure"))(target);
    }
  },
  { rootMargin: "600px" },
);
document.querySelectorAll("figure .panel").forEach((panel) => watcher.observe(panel));
window.addEventListener("beforeprint", () => {
  document.querySelectorAll("details.static").forEach((details) => { details.open = true; });
});

const root = document.documentElement;
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
function paint(dark) {
  root.style.colorScheme = dark ? "dark" : "light";
  root.classList.toggle("dark", dark); // what DataTables goes by
  button.setAttribute("aria-pressed", String(dark));
}
paint(system.matches);
system.addEventListener("change", (event) => paint(event.matches));
button.addEventListener("click", () => paint(button.getAttribute("aria-pressed") !== "true"));
