// Draws the charts when they come into view, and joins them to the page's legends, buttons and tables.
// What is drawn is said by the Vega-Lite specifications in the page; what is in tables, by the same data.
const config = JSON.parse(document.getElementById("chart-config").textContent);

const records = ({ columns, rows }) => rows.map((row) => Object.fromEntries(columns.map((name, i) => [name, row[i]])));

function prepare(figure) {
  let read; // when it is first wanted: a large study has megabytes of data
  const payload = () => {
    if (!read) {
      const { views, own, panel, data } = JSON.parse(figure.querySelector(".payload").textContent);
      const sets = Object.entries(data).map(([name, table]) => [name, records(table), table.columns.includes(panel)]);
      read = { views, own, panel, data, sets };
    }
    return read;
  };
  const alt = figure.querySelector(".alt").textContent;
  const drawn = [];
  let zoomed = 0; // by how much all charts of the figure are, those that come into view later as well
  const shown = () => [...figure.querySelectorAll(".legend input:checked")].map((box) => box.value);

  async function draw(place) {
    const { views, own, panel, sets } = payload();
    const value = place.dataset.panel;
    const specifications = own?.[value] ?? views;
    const datasets = Object.fromEntries(
      sets.map(([name, rows, split]) => [name, split ? rows.filter((row) => String(row[panel]) === value) : rows]),
    );
    for (const [i, element] of place.querySelectorAll(".view").entries()) {
      const description = `${place.getAttribute("aria-label") ?? ""} ${alt}`.trim();
      const specification = {
        ...specifications[i], datasets: { ...specifications[i].datasets, ...datasets }, description,
      };
      try {
        const { view } = await vegaEmbed(element, specification, {
          mode: "vega-lite", renderer: "svg", actions: false, config, tooltip: { theme: "custom" },
        });
        drawn.push(view);
        if (figure.querySelector(".legend")) view.signal("shown", shown());
        await (zoomed ? zoom(view, zoomed) : view.runAsync());
        element.dataset.drawn = "true";
      } catch (error) {
        element.textContent = `This chart could not be drawn: ${error.message}. The static figure below shows the same.`;
        console.error(error);
      }
    }
  }

  // factor: of the range that is shown now (on a logarithmic axis, of its logarithms); 0 shows all again.
  function zoom(view, factor) {
    if (!view.getState().signals.zoom_tuple_fields) return view.runAsync();
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
    if (button) {
      const factor = Number(button.dataset.zoom);
      zoomed = factor && (zoomed || 1) * factor;
      drawn.forEach((view) => zoom(view, factor));
    }
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
  const escaped = DataTable.render.text().display; // names and notes are text, whatever they contain
  new DataTable(details.querySelector("table"), {
    data: rows,
    columns: columns.map((_, i) => ({
      className: numeric[i] ? "dt-right" : "dt-left",
      type: numeric[i] ? "num" : "string",
      render: (value, type) =>
        type === "export" ? value : value === null ? "–" : type !== "display" ? value : numeric[i] ? short(value) : escaped(value),
    })),
    order: [],
    pageLength: 10,
    language: { search: "Filter:" },
    layout: {
      topStart: "search",
      topEnd: {
        buttons: [{
          extend: "csvHtml5", text: "Download CSV", filename: `${name}-${details.dataset.table}`,
          footer: false, // more digits than are shown, and text as it is
          exportOptions: { orthogonal: "export", stripHtml: false, decodeEntities: false, escapeExcelFormula: false },
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
const twins = document.querySelectorAll("details.static");
const show = (how) => () => twins.forEach((details) => { details.open = how; });
show(false)(); // they are open where no script runs
window.addEventListener("beforeprint", show(true));
window.addEventListener("afterprint", show(false));

const root = document.documentElement;
const button = document.getElementById("theme");
const system = matchMedia("(prefers-color-scheme: dark)");
function paint(dark) {
  root.style.colorScheme = dark ? "dark" : "light";
  root.classList.toggle("dark", dark); // what DataTables goes by
  button.textContent = dark ? "Light" : "Dark";
}
paint(system.matches);
system.addEventListener("change", (event) => paint(event.matches));
button.addEventListener("click", () => paint(!root.classList.contains("dark")));
